import math

import pytest
import torch
from cases import CONVOLUTIONS, conv, draw, system_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.measures.architecture import inspect_network
from leakage_audit.measures.probe_systems import systems_at
from leakage_audit.measures.structural import InstanceOptions, structural_rank
from leakage_audit.models import VARIANTS, build
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import Convolution

DEFICIENCIES = {
    "cnn2_v1": [0], "cnn2_v2": [-1470], "cnn3_v1": [0, -4533], "cnn3_v2": [-1470, -1050], "cnn3_v3": [0, 0],
    "cnn3_v4": [-2146, 0], "cnn4_v1": [0, -3965, -386], "cnn4_v2": [0, -9316, 0],
}  # fmt: skip


def matrix_rank(system):
    return int(torch.linalg.matrix_rank(torch.from_numpy(system.matrix()), rtol=1e-10))


def layers(variant):
    return [layer for layer in read_chain(build(variant), (3, 32, 32)) if isinstance(layer, Convolution)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_papers_layers_are_all_proved(variant):
    found = [(structural_rank(layer), math.prod(layer.in_shape)) for layer in layers(variant)]
    assert [rank.rank - n for rank, n in found] == DEFICIENCIES[variant]
    assert {rank.how for rank, _ in found} <= {"tall", "wide"}


def geometry():
    """Convolutions of every kind, small enough for a dense matrix."""
    small, pair = st.integers(1, 4), st.tuples
    return st.fixed_dictionaries(
        dict(
            groups=st.integers(1, 3), c_in=st.integers(1, 4), c_out=st.integers(1, 8), kernel=pair(small, small),
            stride=pair(small, small), padding=pair(st.integers(0, 2), st.integers(0, 2)),
            dilation=pair(st.integers(1, 3), st.integers(1, 3)), size=pair(st.integers(3, 13), st.integers(3, 13)),
            shared=st.booleans(),
        )
    )  # fmt: skip


def instance(c_in, c_out, groups, kernel, stride, padding, dilation, size, shared, seed):
    out = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    assume(min(out) >= 1)
    in_shape, out_shape = (groups * c_in, *size), (groups * c_out, *out)
    assume(math.prod(in_shape) <= 300 and math.prod(out_shape) <= 500)
    weight = draw(groups * c_out, c_in, *kernel, seed=seed)
    layer = Convolution("", weight, None, in_shape, out_shape, groups, stride, padding, dilation)
    dz = draw(*out_shape, seed=seed + 1)
    return LayerSystem(layer, dz, torch.zeros_like(dz), weight if shared else None)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(geometry())
def test_random_layers(shape):
    system = instance(**shape, seed=17)
    assert structural_rank(system.layer, shape["shared"]).rank == matrix_rank(system)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(geometry())
def test_counting_never_falls_short(shape):
    system = instance(**shape, seed=5)
    found = structural_rank(system.layer, shape["shared"], InstanceOptions(largest=-1))
    assert found.how != "instance"
    assert found.rank >= matrix_rank(system)
    if found.how != "counted":
        assert found.rank == matrix_rank(system)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_cases(name):
    system, _ = system_of(conv(name))
    assert structural_rank(system.layer).rank == matrix_rank(system)


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(2), nn.AvgPool2d(3, 1), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((4, 2), (1, 3))]
)
def test_pooling(pool):
    system, _ = system_of(pool)
    found = structural_rank(system.layer)
    assert (found.rank, found.how) == (matrix_rank(system), "pooling")


@pytest.mark.parametrize(
    ("filters", "kernel", "above", "size"),
    [
        (4, 3, {"kernel_size": 1, "stride": 3}, 8),
        (3, 3, {"kernel_size": 3, "stride": 4}, 8),
        (4, 4, {"kernel_size": 1, "stride": 2, "padding": 1}, 6),
        (2, 3, {"kernel_size": 2, "stride": 6}, 9),
        (6, 3, {"kernel_size": 2, "stride": 4}, 11),
    ],
)
def test_outputs_that_the_layer_above_leaves_unread_have_no_gradient(filters, kernel, above, size):
    """Against the systems of a real image's gradients, whose derivatives are zero there."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, filters, kernel), nn.Tanh(), nn.Conv2d(filters, 6, **above), nn.Tanh(), nn.Flatten()
    )
    network = nn.Sequential(*body, nn.LazyLinear(5)).double()
    x = torch.rand(1, 3, size, size, dtype=torch.float64)
    network(x)
    chain = read_chain(network, x.shape[1:])
    systems = systems_at(chain, x, torch.tensor([1]), nn.functional.cross_entropy)
    found = [row.rank for row in inspect_network(network, tuple(x.shape[1:])).layers]
    assert found == [matrix_rank(system) for system in systems]


def test_unread_inputs_are_never_known():
    system, _ = system_of(conv("stride beyond kernel"))
    assert structural_rank(system.layer).read == 2 * 4 * 6 < system.n


def test_a_layer_of_practice_is_counted_not_tried():
    layer = Convolution("", torch.zeros(128, 64, 3, 3), None, (64, 56, 56), (128, 28, 28), 1, (2, 2), (1, 1))
    found = structural_rank(layer)
    assert (found.how, found.rank) == ("counted", 128 * 28**2 + 128 * 64 * 9 - 128**2)
