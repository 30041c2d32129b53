"""Units that are wrong, told by their residuals: an oracle with jumps whose solution is known."""

from dataclasses import replace

import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations.base import Block, Equations
from leakage_audit.observation import observe
from leakage_audit.priors import Tikhonov
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import Solution, gauss_newton
from leakage_audit.solvers.kinks import gauss_newton_with_kinks
from leakage_audit.solvers.options import SolverOptions, StoppingOptions, UnitOptions
from leakage_audit.solvers.stopping import Status
from leakage_audit.solvers.unit_weights import reweighted_by_unit

N, UNITS, EACH = 12, 6, 4
TRUTH = torch.linspace(0.2, 0.8, N, dtype=torch.float64)
SOLVED = StoppingOptions(solved=1e-6)


class Jumping(Equations):
    """`A x` of six units; those that are listed jump as soon as the image is off by more than a thousandth."""

    def __init__(self, wrong, with_units=True):
        network = nn.Sequential(nn.Flatten(), nn.Linear(N, 2)).double()
        seen = observe(network, torch.rand(3, 2, 2, dtype=torch.float64), 1)
        self._a, self._jump = draw(UNITS * EACH, N, seed=3), torch.zeros(UNITS, EACH, dtype=torch.float64)
        self._jump[wrong] = draw(len(wrong), EACH, seed=4)
        units = torch.arange(UNITS).repeat_interleave(EACH) if with_units else None
        super().__init__(seen, [Block("layer.weight", self._a @ TRUTH, 1e-9, units)])

    @property
    def memory_estimate(self):
        return N

    def values(self, image):
        off = (image.detach().flatten() - TRUTH).abs().max() > 1e-3
        return [self._a @ image.flatten() + off * self._jump.flatten()]


def begin(equations):
    """The least squares solution with the jumps, the best that one weight for all can find."""
    grey = torch.full((N,), 0.5, dtype=torch.float64)
    r, jacobian = equations.linearize(grey, 1e9)
    image = grey - torch.linalg.lstsq(jacobian, r[:, None]).solution[:, 0]
    return Solution(image, equations.evaluate(image), torch.full_like(image, torch.nan), None, 5, Status.STALLED)


def reweighted(equations, max_steps=40, options=None):
    options = options or SolverOptions(stopping=SOLVED)
    return reweighted_by_unit(equations, Tikhonov(), max_steps, 1e9, Budget(), begin(equations), options)


def test_wrong_units_are_told_by_their_residuals():
    equations = Jumping([1, 4])
    assert (begin(equations).image - TRUTH).abs().max() > 0.05
    found = reweighted(equations)
    torch.testing.assert_close(found.image, TRUTH, atol=1e-6, rtol=0)
    assert found.status is Status.SOLVED
    assert found.rank == N
    assert found.steps > 5  # those before count
    assert torch.isfinite(found.std).all()


def test_without_units_there_is_one_weight_and_the_solution_stays():
    found = reweighted(Jumping([1, 4], with_units=False))
    assert (found.image - TRUTH).abs().max() > 0.05
    assert found.status is Status.STALLED


def test_the_best_is_kept_and_too_few_steps_are_said():
    equations = Jumping([0, 1, 2, 3, 4])  # one right unit does not determine the image
    first, found = begin(equations), reweighted(equations, max_steps=3)
    assert found.r.norm() <= first.r.norm()
    assert found.status is Status.MAX_STEPS


def test_no_time_leaves_the_start():
    equations, first = Jumping([1]), begin(Jumping([1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equations, "linearize", lambda *_: (_ for _ in ()).throw(TimeoutError))
        found = reweighted_by_unit(equations, Tikhonov(), 9, 1e9, Budget(), first, SolverOptions())
    assert found.status is Status.TIME_UP
    assert torch.equal(found.image, first.image)


def test_turns_solve_what_one_weight_for_all_does_not():
    equations = Jumping([1, 4])
    equations.kinked = True
    tight = replace(SolverOptions().stopping, within=1e-3)
    options = SolverOptions(stopping=tight)
    alone = gauss_newton(equations, Tikhonov(), 20, 1e9, Budget(), options=options)
    none = replace(options, by_unit=UnitOptions(turns=0))
    assert torch.equal(gauss_newton_with_kinks(equations, Tikhonov(), 20, 1e9, Budget(), None, none).image, alone.image)
    found = gauss_newton_with_kinks(equations, Tikhonov(), 20, 1e9, Budget(), None, options)
    assert (alone.image - TRUTH).abs().max() > 0.01
    torch.testing.assert_close(found.image, TRUTH, atol=1e-6, rtol=0)


def test_a_layer_s_weights_and_bias_share_their_units():
    network = nn.Sequential(nn.Flatten(), nn.Linear(N, 2)).double()
    seen = observe(network, torch.rand(3, 2, 2, dtype=torch.float64), 1)

    class Named(Equations):
        memory_estimate = 1

        def values(self, image):
            raise NotImplementedError

    two, three = torch.arange(2), torch.arange(3)
    blocks = [
        Block("features", torch.ones(2), 0.0), Block("a.weight", torch.ones(4), 0.0, two.repeat_interleave(2)),
        Block("b.bias", torch.ones(3), 0.0, three), Block("a.bias", torch.ones(2), 0.0, two),
    ]  # fmt: skip
    assert Named(seen, blocks).units.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 5, 1, 2]
