import pytest
import torch

from leakage_audit.solvers.options import CGOptions, LinearizationOptions, SolverOptions, StoppingOptions
from leakage_audit.solvers.stopping import Status, StoppingRule, weighted_residual

IMAGE, ONES = torch.zeros(3, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
OPTIONS = StoppingOptions(solved=1e-3, settled=0.01, settled_probed=0.02, within=2.0, patience=2, stuck=0.1)


def rule(probed=False, options=OPTIONS, floor=1e-9):
    return StoppingRule(options, floor * ONES, probed, IMAGE, ONES)


def judge(it, r, change, headway=True, variance=1e-12, image=IMAGE):
    return it(image, r * ONES, change, variance * ONES, ONES, headway)


def test_solved_takes_both_a_settled_image_and_a_small_residual():
    assert judge(rule(), r=1e-3, change=0.009) is Status.SOLVED
    assert judge(rule(), r=1e-3, change=0.011) is None
    assert judge(rule(), r=2e-3, change=0.009) is None


def test_noise_is_solved_too():
    noisy = rule(floor=0.1)
    assert noisy.solved == pytest.approx(0.3)
    assert judge(noisy, r=0.29, change=0.009) is Status.SOLVED


def test_what_kinks_leave_open_is_solved_only_where_they_are_probed():
    assert judge(rule(probed=True), r=0.19, change=0.019, variance=0.01) is Status.SOLVED
    assert judge(rule(probed=True), r=0.21, change=0.019, variance=0.01) is Status.STALLED
    assert judge(rule(), r=0.19, change=0.009, variance=0.01) is None


def test_stuck():
    assert judge(rule(), r=0.5, change=0.0009) is Status.STALLED
    assert judge(rule(), r=0.5, change=0.0011) is None


def test_idle_steps_in_a_row():
    it = rule()
    assert judge(it, 0.5, 1.0, headway=False) is None
    assert judge(it, 0.5, 1.0, headway=True) is None
    assert judge(it, 0.5, 1.0, headway=False) is None
    assert judge(it, 0.5, 1.0, headway=False) is Status.STALLED
    assert it.status(steps=4, max_steps=4) is Status.STALLED


def test_the_best_iterate_is_kept():
    it = rule()
    better, worse = IMAGE + 1, IMAGE + 2
    judge(it, 0.5, 1.0, image=better)
    judge(it, 0.7, 1.0, image=worse)
    assert torch.equal(it.best[0], better)
    assert weighted_residual(it.best[1], ONES) == 1.0


def test_otherwise_the_steps_or_the_time_ended_it():
    assert rule().status(steps=5, max_steps=5) is Status.MAX_STEPS
    assert rule().status(steps=4, max_steps=5) is Status.TIME_UP


def test_every_ending_is_a_sentence():
    for status in Status:
        assert "{" not in status.sentence(residual=0.1, steps=3)
    solved = [Status.SOLVED, Status.EACH_SOLVED, Status.EACH_LAYER, Status.READ_OFF]
    assert [status for status in Status if status.solved] == solved


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (StoppingOptions, {"solved": 0.0}),
        (StoppingOptions, {"stuck": 1.5}),
        (StoppingOptions, {"patience": 0}),
        (LinearizationOptions, {"pool": 1.1}),
        (LinearizationOptions, {"perturbations": 3}),
        (CGOptions, {"exactness": 0.0}),
        (SolverOptions, {"shares": ()}),
        (SolverOptions, {"shares": (1.0, 0.0)}),
        (SolverOptions, {"floor": float("nan")}),
    ],
    ids=str,
)
def test_refuses(kind, wrong):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.{next(iter(wrong))} must be"):
        kind(**wrong)
