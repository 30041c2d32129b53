from dataclasses import replace

import pytest
import torch
from cases import draw
from normalised import Normalised, inputs_of
from torch import nn

from leakage_audit.equations.backward_recovery import recover_backwards
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.known_inputs import Known, RecoveryOptions
from leakage_audit.equations.network_recovery import recover_network
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.equations.rectifier_pattern import PatternOptions
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfTime

EPS = relative_error_of(torch.float64)


class Residual(nn.Module):
    """A stem, a block with a shortcut, one that halves the size, and as many features as the last block has units."""

    def __init__(self, pooled=False):
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        self.one, self.two = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1, bias=False)
        self.inner = nn.BatchNorm2d(24)
        self.down, self.short = nn.Conv2d(24, 32, 3, 2, 1), nn.Conv2d(24, 32, 1, 2)
        self.pool = nn.AdaptiveAvgPool2d(1 if pooled else 2)
        self.fc = nn.Linear(32 * (1 if pooled else 4), 7)

    def forward(self, x):
        h = self.act(self.norm(self.stem(x)))
        y = self.inner(self.two(self.act(self.one(h))))
        y += h
        h = self.act(y)
        return self.fc(self.pool(self.act(self.down(h) + self.short(h))).flatten(1))


def network(pooled=False, mode="eval"):
    torch.manual_seed(0)
    return Residual(pooled).double().train(mode == "train")


def see(net, batch, dtype=torch.float64):
    images = 0.5 + 0.2 * draw(batch, 3, 8, 8)
    seen = observe(net.to(dtype), images.to(dtype), torch.arange(batch) % 7, mean=0.5)
    return images, seen.to(torch.float64)


def at_the_end(seen, images, noise=1e-15):
    fed = inputs_of(seen.network, images)["fc"].detach()
    z = seen.network.fc(fed).detach().requires_grad_()
    (delta,) = torch.autograd.grad(seen.loss(z, torch.arange(len(images)) % 7), z)
    return Known("fc", delta, fed, fed.new_full((len(fed),), noise))


def worst(recovered, truth):
    """Largest relative error of an input."""
    errors = []
    for layer in recovered:
        h = truth[layer.name].detach()
        h = (h if h.ndim > 2 else h[..., None]).flatten(2).transpose(0, 1).flatten(1)
        h = h if layer.input.basis is None else h @ layer.input.basis
        errors.append(float((layer.input.value - h).norm() / h.norm()))
    return max(errors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", [1, 4])
def test_inputs_of_all_images_together(batch, dtype):
    images, seen = see(network(), batch, dtype)
    rounding = relative_error_of(dtype)
    recovered = recover_backwards(seen, rounding, start=at_the_end(seen, images))
    whole = {layer.name for layer in recovered if layer.input.basis is None}
    assert whole == {"fc", "down", "two", "one"} | ({"stem"} if batch == 1 else set())  # 24 · 9 rows for 64 B unknowns
    assert recovered[-1].name == "stem"
    assert worst(recovered, inputs_of(seen.network, images)) < 1e3 * rounding


def test_derivatives_are_autograds_and_the_true_images_solve_the_equations():
    images, seen = see(network(), 4)
    recovered = recover_backwards(seen, EPS, start=at_the_end(seen, images))
    fed = inputs_of(seen.network, images)
    loss = seen.loss(seen.network.fc(fed["fc"]), torch.arange(4))
    for layer in recovered[1:-1]:
        (expected,) = torch.autograd.grad(loss, fed[layer.name], retain_graph=True)
        torch.testing.assert_close(layer.input_gradient, expected)
    equations = RecoveredInputEquations(seen, recovered, EPS)
    assert [block.name for block in equations.blocks] == [
        "input of one", "input of stem", "stem.bias", "norm.weight", "norm.bias"
    ]  # fmt: skip
    assert equations.residual(images).abs().max() < 1e-8


@pytest.mark.parametrize("pattern", [PatternOptions(), PatternOptions(others=(25.0,), flips=4)], ids=["cuts", "flips"])
def test_a_wrong_pattern_is_mended(pattern):
    images, seen = see(network(), 4)
    start = at_the_end(seen, images)
    least = float(start.input[start.input > 0].min())
    start = replace(start, noise=torch.full_like(start.noise, least / 3))  # its unit counts as off at five deviations
    recovered = recover_backwards(seen, EPS, start=start, options=RecoveryOptions(pattern=pattern))
    assert worst(recovered, inputs_of(seen.network, images)) < 1e-9
    assert len(recovered) == 5
    left = PatternOptions(others=(25.0,), flips=0)
    assert len(recover_backwards(seen, EPS, start=start, options=RecoveryOptions(pattern=left))) == 1


def test_another_images_features_are_noticed():
    images, seen = see(network(), 3)
    start = at_the_end(seen, images)
    wrong = replace(start, input=start.input.roll(1, 0))
    assert len(recover_backwards(seen, EPS, start=wrong)) == 1


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_what_lies_behind_an_average_pooling_opens_at_a_convolution(mode):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 40, 3, 2, 1), nn.ReLU(), nn.Conv2d(40, 40, 3, 1, 1),
        nn.Identity() if mode == "eval" else nn.GroupNorm(4, 40), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(40, 5),
    ).double()  # fmt: skip
    images = 0.5 + 0.2 * draw(1, 3, 8, 8)
    seen = observe(net, images, torch.tensor([3]), mean=0.5)
    layer, recovered = recover_network(seen, EPS, EPS / 4, None, Budget(), 1.0)
    assert layer == "4"
    assert recovered[-1].name == "0"  # the image itself
    assert worst(recovered, inputs_of(net, images)) < 1e-6


def test_where_the_walk_from_one_convolution_sticks_another_one_is_begun_at(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 40, 3, 2, 1), nn.ReLU(), nn.Conv2d(40, 40, 3, 1, 1),
        nn.ReLU(), nn.Conv2d(40, 40, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5),
    ).double()  # fmt: skip
    images, tried = 0.5 + 0.2 * draw(1, 3, 8, 8), []

    def sticks_at_the_first(*args, start, **kwargs):
        tried.append(start.layer)
        return [] if start.layer == "4" else recover_backwards(*args, start=start, **kwargs)

    monkeypatch.setattr("leakage_audit.equations.network_recovery.recover_backwards", sticks_at_the_first)
    seen = observe(net, images, torch.tensor([3]), mean=0.5)
    layer, recovered = recover_network(seen, EPS, EPS / 4, None, Budget(), 1.0)
    assert (layer, tried[-2:], recovered[-1].name) == ("6", ["4", "6"], "0")
    assert worst(recovered, inputs_of(net, images)) < 1e-6


def test_through_batch_statistics():
    torch.manual_seed(0)
    net = Normalised().double()
    with torch.no_grad():
        for norm in (net.first, net.a, net.b, net.c, net.d):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_(std=0.1)
    images, labels = 0.5 + 0.2 * draw(6, 3, 8, 8), torch.arange(6) % 5
    seen = observe(net, images, labels, mean=0.5)
    truth = inputs_of(net, images)
    loss = seen.loss(net.fc(truth["fc"]), labels)
    (slope,) = torch.autograd.grad(loss, truth["head"], retain_graph=True)
    start = Known("head", slope, truth["head"].detach(), torch.full((6,), 1e-15), of_input=True)
    recovered = recover_backwards(seen, EPS, start=start)
    assert {layer.name for layer in recovered if layer.input.basis is None} >= {"head", "down", "two", "one"}
    assert worst(recovered, truth) < 1e-6
    for layer in recovered[1:4]:
        (expected,) = torch.autograd.grad(loss, truth[layer.name], retain_graph=True)
        torch.testing.assert_close(layer.input_gradient, expected, rtol=1e-4, atol=1e-8)


def test_time_is_kept():
    images, seen = see(network(), 2)
    start = at_the_end(seen, images)
    with pytest.raises(OutOfTime):  # not even for the network's values at guesses
        recover_backwards(seen, EPS, start=start, budget=Budget(seconds=1e-9))
