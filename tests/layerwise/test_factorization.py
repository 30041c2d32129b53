import numpy as np
import pytest
import torch
from cases import CONVOLUTIONS, conv, draw, system_of
from torch import nn

from leakage_audit.layerwise.factorization import Factor

LAYERS = {
    **{name: lambda name=name: conv(name) for name in CONVOLUTIONS},
    "pooling": lambda: nn.AvgPool2d(3, 2, 1),
}
each = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def balanced(system):
    """u with its blocks at equal size, as documented: rows' mean square over the whole kernel and the whole δ."""
    u = torch.from_numpy(system.matrix())
    w, dz = system.weight, system.dz[0]
    ratio = (w.square().sum() / len(w) / (dz.square().sum() / len(dz))).sqrt()
    scale = torch.ones(system.equations, dtype=torch.float64)
    scale[system.z.numel() :] = ratio
    return scale[:, None] * u, scale


@each
def test_rank(make):
    system, _ = system_of(make())
    assert Factor(system).rank == int(torch.linalg.matrix_rank(torch.from_numpy(system.matrix()), rtol=1e-8))


@each
def test_condition(make):
    factor = Factor(system_of(make())[0])
    s = torch.linalg.svdvals(balanced(factor.system)[0])[: factor.rank]
    assert factor.condition == pytest.approx(float(s[-1] / s[0]), rel=2e-3)


@each
def test_pseudo_inverse_of_a_consistent_right_side(make):
    system, _ = system_of(make())
    found = Factor(system).pseudo_inverse(system.v)
    expected = torch.linalg.pinv(torch.from_numpy(system.matrix()), rtol=1e-8) @ system.v
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@each
def test_pseudo_inverse_of_an_inconsistent_right_side(make):
    system, _ = system_of(make())
    u, scale = balanced(system)
    v = draw(system.equations, seed=9)
    found = Factor(system).pseudo_inverse(v)
    torch.testing.assert_close(found, torch.linalg.pinv(u, rtol=1e-8) @ (scale * v), rtol=1e-8, atol=1e-8)


@each
def test_projection_on_the_null_space(make):
    system, _ = system_of(make())
    u, x = torch.from_numpy(system.matrix()), draw(system.n, seed=8)
    expected = x - torch.linalg.pinv(u, rtol=1e-8) @ (u @ x)
    torch.testing.assert_close(Factor(system).project(x), expected, rtol=1e-8, atol=1e-8)


@each
def test_small_gradients_change_no_rank(make):
    system, _ = system_of(make())
    gradient = None if system.gradient is None else 1e-9 * system.gradient
    small = type(system)(system.layer, 1e-9 * system.dz[0], system.z, gradient)
    assert Factor(small).rank == Factor(system).rank
    expected = Factor(system).pseudo_inverse(system.v)
    torch.testing.assert_close(Factor(small).pseudo_inverse(small.v), expected, rtol=1e-8, atol=1e-8)


def degenerate(zero_filters=(), dead_channels=(), case="many filters"):
    module = conv(case)
    with torch.no_grad():
        for k in zero_filters:
            module.weight[k] = 0
    system, x = system_of(module)
    dz, gradient = system.dz[0].clone(), system.gradient.clone()
    for k in dead_channels:
        dz[k], gradient[k] = 0, 0
    return type(system)(system.layer, dz, system.z, gradient), x


@pytest.mark.parametrize(
    ("zero_filters", "dead_channels"), [((0,), ()), ((), (1, 2)), ((1,), (1,)), (range(9), ()), ((), range(9))]
)
@pytest.mark.parametrize("case", ["many filters", "plain", "stride"])
def test_degenerate_systems(case, zero_filters, dead_channels):
    size = conv(case).weight.shape[0]
    zero_filters, dead_channels = ([k for k in ks if k < size] for ks in (zero_filters, dead_channels))
    system, _ = degenerate(zero_filters, dead_channels, case)
    u = torch.from_numpy(system.matrix())
    factor = Factor(system)
    assert factor.rank == int(torch.linalg.matrix_rank(u, rtol=1e-8))
    expected = torch.linalg.pinv(u, rtol=1e-8) @ system.v
    torch.testing.assert_close(factor.pseudo_inverse(system.v), expected, rtol=1e-8, atol=1e-8)


def test_a_system_of_nothing():
    system, _ = degenerate(range(9), range(9))
    factor = Factor(system)
    assert (factor.rank, factor.condition) == (0, 0.0)
    assert not factor.pseudo_inverse(system.v).any()


def test_values_that_are_not_finite():
    system, _ = system_of(conv("plain"))
    system.dz[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        Factor(system)


def test_the_gap_and_the_way_are_told():
    wide = Factor(system_of(conv("one filter"))[0])
    assert wide.way == "Cholesky of uuᵀ without its known identities"
    assert wide.gap > 1e12
    full = Factor(system_of(conv("many filters"))[0])
    assert (full.way, full.gap) == ("Cholesky of WᵀW", None)
    pivoted = Factor(system_of(conv("plain"))[0])  # its W alone is not enough
    assert pivoted.way in ("pivoted Cholesky of G", "singular values of u")
    assert pivoted.gap is None or pivoted.gap > 1e4
