"""A batch's Jacobian made of its images' own, and low rank: both against the whole matrix."""

import pytest
import torch
import torch.nn.functional as F
from limit_networks import batch, build

from leakage_audit.measures.limit import LimitOptions
from leakage_audit.measures.limit.dense import _low_rank
from leakage_audit.measures.limit.linearized_gradient import LinearizedGradient
from leakage_audit.measures.limit.separable import SeparableGradient
from leakage_audit.measures.limit.step import Step, footprint_of, noise_of
from leakage_audit.observation import observe
from leakage_audit.priors import Gaussian, Tikhonov, TotalVariation
from leakage_audit.runtime import Budget


def problem(name, loss=F.cross_entropy):
    """The batch's linearised gradient by its images, and as a whole."""
    images, labels = batch(3)
    options = LimitOptions(rows_per_unknown=1e9)
    seen = observe(build(name), images, labels, loss, mean=0.5)
    step = Step.of(seen, images, labels, options)
    std, footprint = noise_of(step, seen.dtype, options), footprint_of(step, alone=False)

    def single(i):
        return LinearizedGradient(step.images[i, None], lambda x: step.of_one(i, x), std, footprint, options)

    by_images = SeparableGradient(step.images, step.of_batch, single, std, footprint, options)
    return by_images, LinearizedGradient(step.images, step.of_batch, std, footprint, options)


@pytest.mark.parametrize("name", ["strided tanh", "rectifiers and max pooling"])
def test_blocks_side_by_side_are_the_jacobian(name):
    by_images, whole = problem(name)
    blocks = by_images.blocks(Budget())
    assert len(blocks) == 3
    assert tuple(len(block.rows) for block in blocks) == by_images.block_rows
    assert max(by_images.block_rows) < by_images.rows
    jacobian = whole.matrix(Budget())
    made = torch.cat([block.lift(block.rows) for block in blocks], 1)
    torch.testing.assert_close(made, jacobian, rtol=0, atol=1e-9 * float(jacobian.abs().max()))
    u = torch.linspace(-1, 1, whole.rows, dtype=torch.float64)
    pulled = torch.cat([block.rows.T @ block.lower(u[:, None])[:, 0] for block in blocks])
    torch.testing.assert_close(pulled, jacobian.T @ u)


def test_a_loss_that_binds_the_images_together_is_noticed():
    def bound(scores, labels):
        return F.cross_entropy(scores, labels).exp()

    by_images, whole = problem("strided tanh", bound)
    (block,) = by_images.blocks(Budget())
    torch.testing.assert_close(block.rows, whole.matrix(Budget()))


def test_low_rank_says_as_much_in_fewer_equations():
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(90, 7, generator=generator).double() @ torch.randn(7, 30, generator=generator).double()
    gram = tall.T @ tall
    found = _low_rank(gram, LimitOptions())
    assert found.shape == (7, 30)
    torch.testing.assert_close(found.T @ found, gram, rtol=0, atol=1e-9 * float(gram.max()))
    assert _low_rank(torch.eye(30).double(), LimitOptions()) is None


@pytest.mark.parametrize(
    "prior", [TotalVariation(), Tikhonov(), Gaussian(torch.full((3, 5, 4), 0.4).double(), torch.eye(60).double())]
)
def test_roots_of_a_covariance(prior):
    image = torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaussian, rows = prior.local_gaussian(image), torch.randn(4, 60, dtype=torch.float64)
    expected = torch.linalg.solve(gaussian.precision_matrix(), rows.T).T
    half = gaussian.times_root(rows)
    torch.testing.assert_close(half @ half.T, rows @ expected.T)
    torch.testing.assert_close(gaussian.covariance_times(rows[0]), expected[0])
