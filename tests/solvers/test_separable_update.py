"""A batch's step by its images' own problems is the step on the whole Jacobian."""

import pytest
import torch
from cases import draw, pictures
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.batch_separation import separate_batch
from leakage_audit.equations.separable_jacobian import SeparableJacobian, linearize_separably
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.gauss_newton_cg import gauss_newton_cg
from leakage_audit.solvers.gaussian_update import GaussianUpdate, rank
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.separable_update import SeparableUpdate, fits_separably

EPS, SIDE = relative_error_of(torch.float32), 12
PRIOR = TotalVariation()


@pytest.fixture
def jacobian():
    return SeparableJacobian(draw(3, 7, 75), draw(3, 5, 75, seed=2))


@pytest.fixture
def problem(jacobian):
    """Images, residual, noise."""
    return 0.5 + 0.1 * draw(225, seed=3), draw(26, seed=4), draw(26, seed=5).square() + 0.1


def around(images):
    return [PRIOR.local_gaussian(image[None]) for image in images.reshape(3, 3, 5, 5)]


class TestJacobian:
    def test_products_are_the_matrix_s(self, jacobian):
        matrix, v, w = jacobian.matrix(), draw(225), draw(26)
        assert jacobian.shape == tuple(matrix.shape) == (26, 225)
        torch.testing.assert_close(jacobian @ v, matrix @ v)
        torch.testing.assert_close(jacobian.transposed(w).flatten(), matrix.T @ w)

    @pytest.mark.parametrize("shared", [0, 5])
    def test_rank_counts_own_rows_and_what_shared_ones_add(self, jacobian, shared):
        own = torch.cat([jacobian.own, 2 * jacobian.own[:, :2]], 1)  # two rows that say nothing new
        repeated = jacobian.own.transpose(1, 2) @ draw(3, 7, 1)  # a shared row that the own ones say
        found = SeparableJacobian(own, torch.cat([jacobian.shared[:, :shared], repeated.mT], 1))
        assert found.rank(1e-6) == rank(found.matrix(), 1e-6) == 21 + shared


class TestUpdate:
    def test_is_that_of_the_whole_jacobian(self, jacobian, problem):
        images, r, noise = problem
        whole = GaussianUpdate(images, r, jacobian.matrix(), noise, PRIOR.local_gaussian(images.reshape(3, 3, 5, 5)))
        found = SeparableUpdate(images, r, jacobian, noise, around(images))
        torch.testing.assert_close(found.image, whole.image, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.std(), whole.std(), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("products", [0, 12])
    def test_by_the_last_factor_is_the_same(self, jacobian, problem, products):
        images, r, noise = problem
        last = SeparableUpdate(images, r, jacobian, noise, around(images))
        moved, options = images + 0.01 * draw(225, seed=6), SolverOptions(products_by_old_factor=products)
        found = SeparableUpdate(moved, r, jacobian, noise, around(moved), last, options)
        anew = SeparableUpdate(moved, r, jacobian, noise, around(moved))
        torch.testing.assert_close(found.image, anew.image, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.std(), anew.std(), rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    images = pictures(indices=(0, 1, 2))[:, :, :SIDE, :SIDE].contiguous()
    return observe(build("cnn2_v2", image_size=SIDE), images, torch.tensor([1, 2, 3]), mean=0.5), images


def equations_of(seen):
    exact = seen.to(torch.float64)
    return AutogradEquations(exact, EPS, separate_batch(exact, EPS))


def test_linearization_is_the_dense_one(batch):
    equations = equations_of(batch[0])
    image = 0.5 + 0.1 * draw(3 * 3 * SIDE**2)
    r, jacobian = linearize_separably(equations, image, 1e9, Budget())
    whole_r, whole = equations.linearize(image, 1e9)
    torch.testing.assert_close(r, whole_r)
    torch.testing.assert_close(jacobian.matrix(), whole)


def test_a_linearization_without_time_ends(batch):
    with pytest.raises(OutOfTime):
        linearize_separably(equations_of(batch[0]), 0.5 + 0.1 * draw(3 * 3 * SIDE**2), 1e9, Budget(1e-9))


class Mixing(nn.Module):
    """Features that depend on the batch's mean."""

    def __init__(self, body):
        super().__init__()
        self.body, self.fc = body[:-1], body[-1]

    def forward(self, x):
        h = self.body(x)
        return self.fc(h + 0.1 * h.mean(0))


def test_images_that_mix_have_no_rows_of_their_own(batch):
    seen, images = batch
    assert equations_of(seen).own_rows == 6 * 5**2
    torch.manual_seed(0)
    mixing = observe(Mixing(build("cnn2_v2", image_size=SIDE)), images, torch.tensor([1, 2, 3]), mean=0.5)
    assert equations_of(mixing).own_rows == 0
    assert not fits_separably(equations_of(mixing), 1e12, 1e12)


def test_fits_where_memory_and_work_allow(batch):
    equations = equations_of(batch[0])
    assert fits_separably(equations, 1e9, 1e12)
    assert not fits_separably(equations, 1e6, 1e12)
    assert not fits_separably(equations, 1e9, 1e3)


def test_joint_is_as_good_as_with_the_whole_jacobian_and_better_than_without(batch):
    seen, images = batch
    found = Joint()(seen)
    equations = equations_of(seen)
    free = gauss_newton_cg(equations, PRIOR, 30, 1e9, Budget())
    error = float((found.images - images).square().mean())
    assert found.succeeded
    assert found.details["rank"] == rank(equations.linearize(free.image, 1e9)[1], 1e-6)
    assert error <= float((free.image.reshape(images.shape) - images).square().mean()) * 1.001
    assert torch.isfinite(found.details["std"]).all()
