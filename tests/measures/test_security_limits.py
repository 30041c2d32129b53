"""c(M) within limits of time and memory: what does not fit is counted from shapes, and says so."""

import tracemalloc

import pytest
import torch
from torch import nn

from leakage_audit.layerwise.factor_cost import block_cholesky_cost, deflated_cholesky_cost, pivoted_cholesky_cost
from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.gram_factors import PivotedCholesky
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.measures.architecture import inspect_network
from leakage_audit.measures.security import security_metric
from leakage_audit.networks.layer_types import Convolution
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime


def flat(channels, size):
    """Two convolutions that keep the size, and a fully connected layer."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(channels * size**2, 5))


def seen(channels=4, size=8):
    return observe(flat(channels, size), torch.rand(3, size, size), 2, mean=0.5)


def system(c_out, size=10):
    generator = torch.Generator().manual_seed(0)
    module = nn.Conv2d(4, c_out, 3, padding=1)
    layer = Convolution.read("conv", module, (4, size, size), torch.zeros(1))
    dz = torch.randn(c_out, size, size, dtype=torch.float64, generator=generator)
    return LayerSystem(layer, dz, torch.zeros_like(dz), module.weight.detach().double())


@pytest.mark.parametrize("limit", [{"memory_gb": 1e-6}, {"seconds": 1e-9}], ids=str)
def test_ranks_that_do_not_fit_are_counted_and_said_to_be(limit):
    found = security_metric(seen(), budget=Budget(**limit))
    shapes = inspect_network(flat(4, 8), (3, 8, 8))
    assert found.c == shapes.c
    assert found.counted.startswith("counted from the shapes of 0, 2, not from their ranks: ")
    assert all(layer.condition is None and layer.way.startswith("counted from shapes") for layer in found.layers)
    assert all("counted" in layer.remark for layer in found.layers)
    assert found.as_dict()["counted"] == found.counted


def test_what_fits_is_ranked_as_without_limits():
    found, free = security_metric(seen(), budget=Budget(600.0, memory_gb=1.0)), security_metric(seen())
    assert found.counted == ""
    assert "counted" not in found.as_dict()
    assert found == free


def test_layers_above_the_first_that_does_not_fit_keep_their_ranks():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, stride=4)
    network = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(2 * 16, 5))
    step = observe(network, torch.rand(3, 16, 16), 2, mean=0.5)
    layers = []
    for memory in (0.005, 10.0):
        layers.append(security_metric(step, budget=Budget(memory_gb=memory)).layers)
    assert layers[0][1] == layers[1][1]
    assert layers[0][0].way.startswith("counted")
    assert layers[1][0].condition is not None


def measured(step, memory_gb):
    """c(M) within a memory limit, and the bytes that it held at most."""
    tracemalloc.start()
    try:
        return security_metric(step, budget=Budget(memory_gb=memory_gb)), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("channels", [32, 64])
def test_many_channels_at_32_pixels_are_not_begun(channels):
    step = seen(channels, 32)  # whose Gram matrices between unknowns hold 8.6 and 34 GB
    found, peak = measured(step, 2.0)
    assert "max_memory_gb = 2" in found.counted
    assert peak < 1e8


def test_nor_is_one_large_image():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
    network = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(8 * 99**2, 5))
    step = observe(network, torch.rand(3, 400, 400), 2, mean=0.5)
    found, peak = measured(step, 0.2)
    assert "max_memory_gb = 0.2 allows less" in found.counted
    assert peak < 2e8


@pytest.mark.parametrize("kind", ["tall", "wide", "pivoted"])
def test_what_a_factor_is_foreseen_to_hold_is_what_it_holds(kind):
    one = system(2 if kind == "wide" else 12, 14)
    cost = {"tall": block_cholesky_cost, "wide": deflated_cholesky_cost, "pivoted": pivoted_cholesky_cost}[kind](one)
    tracemalloc.start()
    if kind == "pivoted":
        PivotedCholesky(one, 1.0, 1e-8)
    else:
        assert Factor(one).condition > 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.25 * cost.memory < peak < 1.1 * cost.memory


def test_a_factor_is_not_begun_without_time_or_memory():
    for limit, error in (({"seconds": 1e-9}, OutOfTime), ({"memory_gb": 1e-6}, OutOfMemory)):
        with pytest.raises(error):
            Factor(system(12), budget=Budget(**limit))
