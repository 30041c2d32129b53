"""What a solve says of itself on equations whose Jacobian is known: rank, standard deviations, and where it refuses."""

import pytest
import torch
from torch import nn

from leakage_audit.equations.base import Block, Equations
from leakage_audit.observation import observe
from leakage_audit.priors import Tikhonov
from leakage_audit.runtime import Budget
from leakage_audit.solvers.gauss_newton import gauss_newton
from leakage_audit.solvers.options import SolverOptions

N = 12  # unknowns


class Given(Equations):
    """`A x`, with a last equation of a kind of its own."""

    def __init__(self, values, extra=None):
        network = nn.Sequential(nn.Flatten(), nn.Linear(N, 2)).double()
        seen = observe(network, torch.rand(3, 2, 2, dtype=torch.float64), 1)
        left, right = (
            torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(k), dtype=torch.float64))[0]
            for k in (0, 1)
        )
        self.matrix, self.extra = left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right, extra
        target = self.matrix @ torch.linspace(0.2, 0.8, N, dtype=torch.float64)
        blocks = [Block("linear", target, 1e-9)]
        blocks += [] if extra is None else [Block("extra", torch.ones(1, dtype=torch.float64), 1e-9)]
        super().__init__(seen, blocks)

    @property
    def memory_estimate(self):
        return N

    def values(self, image):
        x = image.flatten()
        return [self.matrix @ x] + ([] if self.extra is None else [self.extra(x)[None]])


def solve(equations, max_steps=20, options=None):
    return gauss_newton(equations, Tikhonov(), max_steps, 1e9, Budget(), options=options)


@pytest.mark.parametrize(("tolerance", "rank"), [(1e-6, 8), (1e-2, 4), (0.5, 1)])
def test_the_rank_by_the_given_tolerance(tolerance, rank):
    values = [1.0] + 3 * [0.1] + 4 * [1e-4] + 4 * [1e-12]
    options = SolverOptions() if tolerance == 1e-6 else SolverOptions(rank_tolerance=tolerance)
    assert solve(Given(values), options=options).rank == rank


def test_no_step_no_deviation_and_no_rank():
    found = solve(Given(N * [1.0]), max_steps=0)
    assert found.rank is None
    assert torch.isnan(found.std).all()
    assert (found.image == 0.5).all()
    stepped = solve(Given(N * [1.0]))
    assert stepped.rank == N
    assert torch.isfinite(stepped.std).all()


def test_one_derivative_that_is_not_finite_is_refused():
    # |x − ½| by way of a square root: finite where the solve begins, its derivative there not.
    equations = Given(N * [1.0], extra=lambda x: 2 + (x[0] - 0.5).square().sqrt())
    assert torch.isfinite(equations.residual(torch.full((N,), 0.5, dtype=torch.float64))).all()
    with pytest.raises(FloatingPointError, match="not finite"):
        solve(equations)
