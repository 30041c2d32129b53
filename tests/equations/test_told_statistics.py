"""Variances that ε tells, and what follows: equations in which a single image has a size, and a pattern below them."""

import pytest
import torch
from cases import draw, pictures
from normalised import Normalised, inputs_of
from torch import nn

from leakage_audit.attacks import Joint
from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.equations.input_from_gradient import PartialInput
from leakage_audit.equations.known_inputs import RecoveredInput, known_at_the_end
from leakage_audit.equations.pooled_pattern import pooled_pattern
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.equations.told_statistics import told_variances
from leakage_audit.networks.dataflow import read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import observe

NORMS = {"first": "stem", "a": "one", "b": "two", "c": "down", "d": "short"}


def network():
    torch.manual_seed(0)
    net = Normalised().double()
    with torch.no_grad():
        for name in NORMS:
            getattr(net, name).weight.uniform_(0.5, 2)
            getattr(net, name).bias.normal_()
    return net


@pytest.mark.parametrize("count", [1, 3])
def test_variances_are_those_of_a_forward_pass(count):
    net, images = network(), pictures()[:1, :, ::2, ::2].double() + 0.1 * draw(count, 3, 16, 16)
    seen = observe(net, images, torch.arange(count), mean=0.5)
    buffers = {name: buffer.clone() for name, buffer in seen.network.named_buffers()}
    found, fed = told_variances(seen, 1e-15), inputs_of(net, images)
    assert set(found) == set(NORMS)
    for name, variance in found.items():
        true = fed[name].transpose(0, 1).flatten(1).var(1, unbiased=False)
        told = ~variance.isnan()
        assert told.sum() >= 36  # of 40 or 60; the others are nowhere on
        torch.testing.assert_close(variance[told], true[told], rtol=1e-5, atol=0)
    for name, buffer in seen.network.named_buffers():
        assert torch.equal(buffer, buffers[name])


def test_a_channel_that_is_not_told_is_left_open_and_a_normalisation_without_any_left_out():
    net, image = network(), pictures()[:1, :, ::2, ::2].double()
    seen = observe(net, image, 2, mean=0.5)
    before = told_variances(seen, 1e-15)["a"]
    assert not before[3].isnan()
    with torch.no_grad():
        seen.gradients["one.weight"][3] *= -1  # a negative variance
    found = told_variances(seen, 1e-15)["a"]
    assert found[3].isnan()
    assert found.isnan().sum() == before.isnan().sum() + 1
    assert told_variances(seen, 1.0) == {}


@pytest.fixture
def opened():
    """The equations of an image whose input of a layer above two normalisations is known, and the image."""
    net, image = network(), pictures()[:1, :, ::2, ::2].double()
    seen = observe(net, image, 2, mean=0.5)
    fed = inputs_of(net, image)
    (slope,) = torch.autograd.grad(seen.loss(_above(net, fed), torch.tensor([2])), fed["down"])
    way = Arrangement.of(net.down, tuple(fed["down"].shape[1:]))
    known = PartialInput.whole(fed["down"].detach(), torch.full_like(fed["down"], 1e-12), way)
    return RecoveredInputEquations(seen, [RecoveredInput("down", known, slope, True)], 1e-12), image


def _above(net, fed):
    h = fed["down"].detach().requires_grad_()
    fed["down"] = h
    return net.fc(net.head(net.act(net.c(net.down(h)) + net.d(net.short(h)))).mean((2, 3)))


def test_the_image_solves_the_equations_its_gradients_too_and_has_a_size(opened):
    equations, image = opened
    told = equations.at_told_statistics()
    assert equations.mixes
    assert not told.mixes
    names = [block.name for block in told.blocks]
    assert names[0] == "input of down"
    assert {"stem.weight", "first.weight", "first.bias", "one.weight", "two.weight"} <= set(names)
    assert told.residual(image).abs().max() < 1e-6
    fainter = 0.5 + 0.9 * (image - 0.5)
    assert equations.residual(fainter).abs().max() < 1e-2 < told.residual(fainter).abs().max()


class Block(nn.Module):
    """ResNet's, normalised behind each convolution; average pooling; as many channels as positions."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.one, self.a = nn.Conv2d(24, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.two, self.b = nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.short, self.c, self.fc = nn.Conv2d(24, 32, 1, 2, bias=False), nn.BatchNorm2d(32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.first(self.stem(x)).relu()
        self.last = (self.b(self.two(self.a(self.one(x)).relu())) + self.c(self.short(x))).relu()
        return self.fc(self.last.mean((2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_the_pattern_behind_batch_statistics_is_the_networks_own(seed):
    torch.manual_seed(seed)
    net, image = Block(), pictures()[:1, :, 8:16, 8:16]
    seen = observe(net, image, 2, mean=0.5).to(torch.float64)
    net(image - 0.5)
    (found,) = pooled_pattern(seen, read_dataflow(stateless(seen.network)), known_at_the_end(seen, 1e-7)).values()
    assert torch.equal(found, (net.last > 0).double())
    assert 0.2 < float(found.mean()) < 0.8


def test_a_gradient_that_no_pattern_makes_gives_none():
    torch.manual_seed(0)
    seen = observe(Block(), pictures()[:1, :, 8:16, 8:16], 2, mean=0.5).to(torch.float64)
    seen.gradients["two.weight"] += 0.1 * seen.gradients["two.weight"].std() * draw(32, 32, 3, 3)
    assert pooled_pattern(seen, read_dataflow(stateless(seen.network)), known_at_the_end(seen, 1e-7)) == {}


def test_joint_opens_a_single_image_in_training_mode():
    torch.manual_seed(0)
    net, image = Block(), pictures()[:1, :, 8:16, 8:16].contiguous()
    found = Joint()(observe(net, image, 2, mean=0.5))
    assert float((found.images - image).square().mean()) < 1e-4  # 40 dB; its size, too
