import numpy as np
import pytest
from cases import conv, system_of

from leakage_audit.layerwise.gram import gram_matrix
from leakage_audit.layerwise.gram_factors import BlockTridiagonalCholesky, DeflatedCholesky, PivotedCholesky

CUT = 1e-10


def gram(system):
    return gram_matrix(system, 1.0)


def check(factoring, system):
    g, y = gram(system), np.random.default_rng(0).standard_normal(min(system.n, system.equations))
    rank = np.linalg.matrix_rank(g, rtol=1e-12)
    assert factoring.rank == rank
    np.testing.assert_allclose(factoring.solve(y), np.linalg.pinv(g, rtol=1e-12) @ y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["many filters", "padding", "one by one", "same padding", "depthwise, several filters"]
)
def test_by_rows(name):
    system, _ = system_of(conv(name))
    check(BlockTridiagonalCholesky(system, 1.0, CUT), system)


def test_by_rows_without_gradient():
    system, _ = system_of(conv("many filters"))
    alone = type(system)(system.layer, system.dz[0], system.z, None)
    check(BlockTridiagonalCholesky(alone, 1.0, CUT), alone)


@pytest.mark.parametrize("name", ["stride beyond kernel", "one filter", "stride"])
def test_by_identities(name):
    system, _ = system_of(conv(name))
    if system.equations >= system.n:
        system = type(system)(system.layer, system.dz[0], system.z, None)
    factoring = DeflatedCholesky(system, 1.0, CUT, float(np.linalg.norm(gram(system), 2)))
    check(factoring, system)
    assert factoring.dropped is None or factoring.dropped < 1e-12


@pytest.mark.parametrize("name", ["many filters", "one filter", "depthwise", "stride beyond kernel", "whole image"])
def test_by_pivots(name):
    system, _ = system_of(conv(name))
    check(PivotedCholesky(system, 1.0, CUT), system)


def test_the_cheap_ways_give_up_where_they_would_be_wrong():
    wide, _ = system_of(conv("depthwise"))  # its W alone is not injective
    with pytest.raises(np.linalg.LinAlgError):
        BlockTridiagonalCholesky(wide, 1.0, CUT)
    dead, _ = system_of(conv("one filter"))
    dead = type(dead)(dead.layer, 0 * dead.dz[0], dead.z, dead.gradient)  # loses all of K, not one equation
    with pytest.raises(np.linalg.LinAlgError):
        DeflatedCholesky(dead, 1.0, CUT, 1.0)


def test_a_gap_that_is_not_clear_is_settled_by_singular_values():
    system, _ = system_of(conv("plain"))
    values = np.linalg.svd(system.matrix(), compute_uv=False)
    found = PivotedCholesky(
        system, 1.0, float(values[40] * values[41])
    )  # a cut between two neighbours of a dense spectrum
    assert (found.rank, found.way) == (41, "singular values of u")
    assert found.dropped == pytest.approx(values[41])
