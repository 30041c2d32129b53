import pytest
import torch
from cases import draw

from leakage_audit.equations.count_sketch import CountSketch, sketch_gradients


def matrix(sketch, entries):
    """The sketch as a dense matrix, `(k, entries)`."""
    return torch.stack([sketch(row) for row in torch.eye(entries, dtype=torch.float64)], 1)


def test_each_entry_is_in_one_sum_with_a_sign_and_the_sums_are_even():
    dense = matrix(CountSketch(23, 5, torch.Generator().manual_seed(1)), 23)
    assert dense.shape == (5, 23)
    assert (dense.abs().sum(0) == 1).all()
    assert sorted(dense.abs().sum(1).tolist()) == [4, 4, 5, 5, 5]
    assert {-1.0, 1.0} < set(dense.flatten().tolist())


def test_no_sum_is_of_two_units_where_there_are_as_many_sums():
    units = torch.tensor([0] * 3 + [1] * 12 + [2] * 7)
    sketch = CountSketch(22, 9, torch.Generator().manual_seed(1), units=units)
    dense = matrix(sketch, 22)
    assert (dense.abs().sum(0) == 1).all()
    for row, unit in zip(dense, sketch.units, strict=True):
        assert set(units[row != 0].tolist()) == {int(unit)}
    assert sketch.units.bincount().tolist() == [3, 3, 3]
    assert CountSketch(22, 2, torch.Generator(), units=units).units is None
    kept = torch.tensor([0, 4, 5, 6, 20])
    assert CountSketch(22, 9, torch.Generator(), kept, units).units.tolist() == [0, 1, 1, 1, 2]


def test_no_fewer_sums_than_entries_leave_them_as_they_are():
    values = draw(2, 3)
    for k in (6, 9):
        sketch = CountSketch(6, k, torch.Generator())
        assert len(sketch) == 6
        assert torch.equal(sketch(values), values.flatten())


def test_a_sum_s_noise_is_that_of_its_entries_together():
    gradients = {"a": 3 * draw(12, 10), "b": draw(4)}
    sketches, blocks = sketch_gradients(gradients, 34, relative_error=0.1, seed=0)
    for sketch, block in zip(sketches, blocks, strict=True):
        g = gradients[block.name].flatten()
        of_entries = 0.1 * g.square().mean().sqrt() * matrix(sketch, len(g)).square().sum(1).sqrt()
        assert block.noise == pytest.approx(float(of_entries.square().mean().sqrt()), rel=1e-12)
        torch.testing.assert_close(block.target, sketch(g))


@pytest.mark.parametrize(
    ("total", "shares"), [(7, [2, 2, 3]), (9, [2, 3, 4]), (30, [2, 8, 20]), (0, [1, 1, 1]), (99, [2, 8, 60])]
)
def test_what_small_gradients_do_not_need_goes_to_the_others(total, shares):
    gradients = {"two": draw(2), "sixty": draw(6, 10), "eight": draw(8)}
    sketches, _ = sketch_gradients(gradients, total, 0.0, seed=0)
    two, sixty, eight = map(len, sketches)
    assert [two, eight, sixty] == shares
