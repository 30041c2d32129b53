from itertools import pairwise

import numpy as np
import pytest
from cases import CONVOLUTIONS, conv, system_of

from leakage_audit.layerwise.block_cholesky import BlockCholesky, weight_gram_blocks


def dense(diagonal, below):
    edges = np.cumsum([0, *(len(block) for block in diagonal)])
    whole = np.zeros((edges[-1], edges[-1]))
    for i, block in enumerate(diagonal):
        whole[edges[i] : edges[i + 1], edges[i] : edges[i + 1]] = block
        if i < len(below):
            whole[edges[i + 1] : edges[i + 2], edges[i] : edges[i + 1]] = below[i]
            whole[edges[i] : edges[i + 1], edges[i + 1] : edges[i + 2]] = below[i].T
    return whole


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_blocks_are_those_of_the_gram_matrix(name):
    system, _ = system_of(conv(name))
    w = system.weight_matrix().toarray()
    order = np.arange(system.n).reshape(system.layer.in_shape).transpose(1, 2, 0).ravel()
    expected = (w.T @ w)[np.ix_(order, order)]
    unread = np.flatnonzero(~w.any(0)[order])
    expected[unread, unread] = 1
    np.testing.assert_allclose(dense(*weight_gram_blocks(system)), expected, atol=1e-12)


def random_blocks(sizes, seed=0):
    random = np.random.default_rng(seed)
    below = [random.standard_normal((b, a)) for a, b in pairwise(sizes)]
    diagonal = []
    for size in sizes:
        root = random.standard_normal((size, size))
        diagonal.append(root @ root.T + 40 * np.eye(size))
    return diagonal, below


@pytest.mark.parametrize("sizes", [[5], [4, 4, 4], [6, 6, 2], [1, 1, 1, 1]])
def test_solve_and_trace(sizes):
    diagonal, below = random_blocks(sizes)
    whole = dense(diagonal, below)
    cholesky = BlockCholesky(diagonal, below)
    y = np.random.default_rng(1).standard_normal((sum(sizes), 3))
    np.testing.assert_allclose(cholesky.solve(y), np.linalg.solve(whole, y), rtol=1e-10)
    np.testing.assert_allclose(cholesky.solve(y[:, 0]), np.linalg.solve(whole, y[:, 0]), rtol=1e-10)
    assert cholesky.trace_of_inverse() == pytest.approx(np.trace(np.linalg.inv(whole)))


def test_what_is_not_positive_definite():
    diagonal, below = random_blocks([4, 4])
    diagonal[1] -= 200 * np.eye(4)
    with pytest.raises(np.linalg.LinAlgError):
        BlockCholesky(diagonal, below)
