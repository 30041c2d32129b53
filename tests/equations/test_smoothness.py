import pytest
import torch

from leakage_audit.equations.base import Block, Equations
from leakage_audit.equations.smoothness import SmoothnessOptions, has_kinks
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget

SHAPE, LIKE = (1, 3, 4, 4), torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.sin, False),
        (lambda x: x**3, False),
        (lambda x: 3 * x + 1, False),
        (lambda x: (x - 0.5).relu(), False),  # a kink alone, with nothing that holds its derivative
        (lambda x: (x > 0.5).double(), True),
        (lambda x: (x - 0.5).relu() + 0.2 * (x > 0.5), True),
    ],
    ids=["sine", "cube", "linear", "kink", "jump", "kink and jump"],
)
def test_told_from_values_alone(function, expected):
    assert has_kinks(function, SHAPE, [48], LIKE) is expected


@pytest.mark.parametrize(("ratio", "margin"), [(8.0, 0.999), (8.0, 1.001), (3.0, 0.999), (3.0, 1.001)])
def test_the_factor_is_where_smooth_and_not_part(ratio, margin):
    # Second differences of a square shrink by the square of the steps' ratio, exactly.
    options = SmoothnessOptions(ratio=ratio, factor=margin * ratio**2)
    assert has_kinks(lambda x: x.square(), SHAPE, [48], LIKE, options) is (margin > 1)


@pytest.mark.parametrize(("size", "expected"), [(1e-8, True), (1e-12, False)])
def test_jumps_of_the_last_digits_size_are_rounding(size, expected):
    def jumps(x):
        return size * (x > 0.5).double()

    assert has_kinks(jumps, SHAPE, [48], LIKE) is expected
    assert has_kinks(jumps, SHAPE, [48], LIKE, SmoothnessOptions(rounding=0.0))


def test_evident_jumps_need_no_more_draws():
    calls = []

    def jumps(x):
        calls.append(x)
        return (x > 0.5).double()

    assert has_kinks(jumps, (1, 3, 16, 16), [768], LIKE)
    assert len(calls) == 5


def test_one_block_is_enough():
    assert has_kinks(lambda x: torch.cat([x.sin(), x.sub(0.5).sign()]), SHAPE, [48, 48], LIKE)


class Counting(Equations):
    """Smooth equations that count how often they are evaluated."""

    calls = 0

    def __init__(self):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)).double()
        seen = observe(network, torch.rand(1, 3, 4, 4, dtype=torch.float64), 1, mean=0.5)
        super().__init__(seen, [Block("sine", torch.ones(48, dtype=torch.float64), 0.0)])

    @property
    def memory_estimate(self):
        return 1

    def values(self, image):
        self.calls += 1
        return [image.flatten().sin()]


def test_found_out_once():
    equations = Counting().within(Budget())
    assert not equations.kinked
    calls = equations.calls
    assert calls == 5 * SmoothnessOptions().draws
    assert not equations.kinked
    assert equations.calls == calls


def test_a_spent_budget_is_not_overdrawn_and_nothing_is_remembered():
    equations = Counting().within(Budget(seconds=1e-9))
    with pytest.raises(TimeoutError, match="time"):
        _ = equations.kinked
    assert equations.calls == 0
    assert not equations.within(Budget()).kinked


def test_refuses():
    with pytest.raises(ValueError, match=r"SmoothnessOptions\.draws must be positive, got 0"):
        SmoothnessOptions(draws=0)
