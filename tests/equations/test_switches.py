"""A network with its switches given: equal to the network at its own, and linear in each of them."""

import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import nn

from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.differentiation import forward_product
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.equations.switches import GivenSwitches
from leakage_audit.observation import observe


class Sum(nn.Module):
    """x + f(x)."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


BODIES = {
    "relu": lambda: (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
    "in place": lambda: (nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU()),
    "leaky": lambda: (nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.LeakyReLU()),
    "pooling": lambda: (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.MaxPool2d(2, 1)),
    "residual": lambda: (
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        Sum(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU())),
        nn.ReLU(),
    ),
}


def network_of(body):
    torch.manual_seed(1)
    parts = BODIES[body]()
    with torch.no_grad():
        features = nn.Sequential(*parts)(torch.zeros(1, 3, 8, 8)).numel()
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(features, 5)).double()


def image_of(seed=0, batch=1):
    return 0.5 + 0.2 * draw(batch * 192, 1, seed=seed).reshape(batch, 3, 8, 8)


@pytest.mark.parametrize("body", BODIES)
def test_at_its_own_switches_it_is_the_network(body):
    network, x = network_of(body), image_of()
    with GivenSwitches() as met:
        expected = network(x)
    assert set(met.switches.on.tolist()) == {0.0, 1.0}
    with GivenSwitches(met.switches.on):
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("batch", [1, 2], ids=["one image", "two images"])
def test_equations_at_their_switches_are_themselves_and_smooth_in_them(body, batch):
    seen = observe(network_of(body), image_of(1, batch), torch.arange(batch), mean=0.5, grant_labels=True)
    equations, image = AutogradEquations(seen, 1e-15), image_of(2, batch).flatten()
    on = equations.switches(image).on
    torch.testing.assert_close(equations.residual_at(image, on), equations.residual(image))
    torch.manual_seed(0)
    move = torch.randn_like(on) * (torch.rand_like(on) < 0.1)
    slope = forward_product(lambda a: equations.residual_at(image, a), on, move)
    there, back = (equations.residual_at(image, on + h * move) for h in (1e-5, -1e-5))
    torch.testing.assert_close(slope, (there - back) / 2e-5, atol=1e-7, rtol=1e-5)


def test_a_chain_knows_the_switches_below_its_last_layer():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 2, 2), nn.LeakyReLU(0.3), nn.Flatten(), nn.Linear(8, 5)
    ).double()
    equations = peel_layers(observe(network, image_of(3), 1, mean=0.5), 1e-15)
    image = image_of(4).flatten()
    switches = equations.switches(image)
    first = network[0](equations.seen.to_input(image.reshape(1, 3, 8, 8)))
    torch.testing.assert_close(switches.margins, first.flatten())
    torch.testing.assert_close(equations.residual_at(image, switches.on), equations.residual(image))
    half = equations.residual_at(image, torch.full_like(switches.on, 0.5))
    assert (half - equations.residual(image)).abs().max() > 1e-3


@pytest.mark.parametrize("kink", [F.relu6, F.hardtanh, lambda x: F.max_pool2d(x, 2, ceil_mode=True)])
def test_other_kinks_are_no_switches(kink):
    with GivenSwitches() as met:
        kink(torch.relu(image_of()))
    assert met.switches is None


def test_of_a_window_one_is_on():
    x = image_of(5)
    with GivenSwitches() as met:
        F.max_pool2d(x, 2)
    switches = met.switches
    assert switches.window.unique().tolist() == list(range(48))
    sums = torch.zeros(48, dtype=torch.float64).index_add(0, switches.window, switches.on)
    assert (sums == 1).all()


def test_more_rows_are_as_many_as_asked_for_and_no_more_than_there_are():
    seen = observe(network_of("relu"), image_of(1), 1, mean=0.5)
    equations = AutogradEquations(seen, 1e-15)
    entries = len(AutogradEquations(seen, 1e-15).with_rows(10**6).noise)
    assert equations.with_rows(100) is equations
    assert len(equations.noise) <= entries
    assert len(equations.with_rows(10**6).with_rows(10**7).noise) == entries
