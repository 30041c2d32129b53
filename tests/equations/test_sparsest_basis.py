import pytest
import torch
from cases import draw

from leakage_audit.equations.sparsest_basis import SparsestBasisOptions, sparsest_basis
from leakage_audit.runtime import Budget


def sparse(n, r, share=0.5, noise=1e-8, seed=0):
    """Rows S A with noise, their noise, and the vectors that undo A, of unit length."""
    generator = torch.Generator().manual_seed(seed)
    s = draw(n, r, seed=seed) * (torch.rand(n, r, generator=generator) > share)
    a = draw(r, r, seed=seed + 1)
    rows = s @ a
    std = noise * rows.norm(dim=1)
    true = torch.linalg.inv(a).T
    return rows + std[:, None] * draw(n, r, seed=seed + 2), std, true / true.norm(dim=1, keepdim=True)


def found(basis, true):
    """How many of the true vectors are in the basis."""
    return int(((basis.vectors @ true.T).abs() > 1 - 1e-9).any(0).sum()) if len(basis.vectors) else 0


@pytest.mark.parametrize(
    ("n", "r", "share"), [(30, 1, 0.5), (60, 2, 0.4), (200, 4, 0.5), (300, 8, 0.5), (600, 10, 0.4)]
)
def test_draws_find_every_vector(n, r, share):
    rows, noise, true = sparse(n, r, share)
    basis = sparsest_basis(rows, noise)
    assert len(basis.vectors) == found(basis, true) == r
    assert (basis.zeros.diff() <= 0).all()


@pytest.mark.parametrize("r", [6, 16])
def test_dictionary_learning_finds_every_vector(r):
    rows, noise, true = sparse(1000, r)
    assert found(sparsest_basis(rows, noise, SparsestBasisOptions(max_draws=0)), true) == r


def test_dead_rows_are_no_zeros():
    rows, noise, true = sparse(200, 4)
    dead = 1e-9 * draw(500, 4)
    basis = sparsest_basis(torch.cat([rows, dead]), torch.cat([noise, torch.full((500,), 1e-8).double()]))
    assert found(basis, true) == 4
    assert basis.alive <= 200


def test_no_zeros_no_basis():
    assert len(sparsest_basis(draw(300, 5), 1e-8).vectors) == 0


def test_the_same_again():
    rows, noise, _ = sparse(200, 5)
    assert torch.equal(sparsest_basis(rows, noise).vectors, sparsest_basis(rows, noise).vectors)


def test_rows_of_lower_rank_and_no_time_give_nothing():
    rows, noise, _ = sparse(200, 5)
    assert len(sparsest_basis(rows[:, [0, 0, 1]], noise).vectors) == 0
    assert len(sparsest_basis(rows, noise, budget=Budget(seconds=1e-9)).vectors) == 0


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_rows_give_nothing(n):
    rows, noise, _ = sparse(n, 3)
    assert len(sparsest_basis(rows, noise).vectors) == 0
