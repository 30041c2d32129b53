"""What batch statistics forget is found from what lies below, or left open: a low residual tells of neither."""

from dataclasses import replace

import pytest
import torch
from cases import draw
from normalised import Normalised, inputs_of
from torch import nn

from leakage_audit.equations.backward_recovery import recover_backwards
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.forgotten_by_statistics import Lowest, common_size
from leakage_audit.equations.known_inputs import Known
from leakage_audit.observation import observe


def seen_by(seed, batch, dtype=torch.float32, net=None):
    """A network with units that are seldom off, what it shares of a batch, its true inputs and where a walk starts."""
    torch.manual_seed(seed)
    net = net or Normalised()
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_(std=0.5)
    images, labels = 0.5 + 0.2 * draw(batch, 3, 8, 8, seed=seed), torch.arange(batch) % 5
    seen = observe(net.to(dtype), images.to(dtype), labels, mean=0.5).to(torch.float64)
    truth = inputs_of(net.double(), images)
    (slope,) = torch.autograd.grad(seen.loss(net.fc(truth["fc"]), labels), truth["head"])
    start = Known("head", slope, truth["head"].detach(), torch.full((batch,), relative_error_of(dtype)), of_input=True)
    return seen, truth, start


def errors(layer, truth):
    """Of each entry, and the true values."""
    h = truth[layer.name].detach().flatten(2).transpose(0, 1).flatten(1)
    return (layer.input.value - h).abs(), h


@pytest.mark.parametrize(("seed", "batch"), [(1, 2), (2, 4)], ids=["two", "four"])
def test_constants_behind_a_stride_are_found_where_the_rectifier_was_never_off(seed, batch):
    seen, truth, start = seen_by(seed, batch)
    even = truth["down"][:, :, ::2, ::2].detach().transpose(0, 1).flatten(1)
    assert bool((even > 0).all(1).any())  # a channel whose least value is not zero
    found = recover_backwards(seen, relative_error_of(torch.float32), start=start)
    whole = {layer.name: layer for layer in found if layer.input.basis is None}
    assert set(whole) >= {"down", "two", "one"}
    for layer in found[1:]:
        error, h = errors(layer, truth)
        assert float(error.norm() / h.norm()) < 1e-5
        assert bool((error < 60 * layer.input.noise).all())


def test_a_constant_that_nothing_tells_is_left_open():
    seen, truth, start = seen_by(1, 2)
    seen = replace(seen, gradients={name: g for name, g in seen.gradients.items() if name != "two.weight"})
    found = recover_backwards(seen, relative_error_of(torch.float32), start=start)
    down = next(layer for layer in found if layer.name == "down")
    error, h = errors(down, truth)
    size = h.square().mean().sqrt()
    assert float(error.max() / size) > 1e-2  # it is wrong, and says so
    assert bool((error < 10 * down.input.noise).all())
    sure = down.input.noise < 1e-3 * size
    assert 0.3 < float(sure.double().mean()) < 1
    assert float(error[sure].max() / size) < 1e-5


class Pooled(Normalised):
    """With a max pooling below the first block."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, 1, 1, bias=False)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        h = self.pool(self.act(self.first(self.stem(x))))
        h = self.act(self.b(self.two(self.act(self.a(self.one(h))))) + h)
        h = self.act(self.c(self.down(h)) + self.d(self.short(h)))
        return self.fc(self.head(h).mean((2, 3)))


def test_a_pooled_input_has_its_size_from_the_normalisation_below_the_pooling():
    seen, truth, start = seen_by(3, 4, net=Pooled())
    found = recover_backwards(seen, relative_error_of(torch.float32), start=start)
    assert found[-1].name == "one"
    error, h = errors(found[-1], truth)
    assert float(error.norm() / h.norm()) < 1e-5


def test_a_size_is_told_by_most_sums_whichever_state_holds():
    varies = torch.tensor([[2.0, 4.0, 1.0, -6.0, 3.0], [2.0, 5.0, 8.0, -6.0, 9.0]])
    sums = torch.tensor([[1.0, 2.0, 7.0, -3.0, 7.0]]).expand(2, -1)
    told = common_size(varies, sums)
    assert told.size == pytest.approx(2.0)
    assert told.share == pytest.approx(0.6)
    assert told.wrong.tolist() == [False, False, True, False, True]
    assert told.certain.tolist() == [False, True, False, False, False]  # the others are alike in both states
    assert common_size(-varies, sums) is None


def test_the_least_value_counts_as_zero_only_where_several_share_it():
    value = torch.tensor([[[[0.0, 1.0], [2.0, 0.0]]], [[[3.0, 0.0], [1e-9, 1.0]]]]).transpose(0, 1)  # two channels
    where = torch.tensor([[[True, True], [True, False]]])
    lowest = Lowest.of(value, torch.full_like(value, 1e-8), where, cut=5, zeros=2)
    assert lowest.places.nonzero().tolist() == [[0, 0, 0, 0]]
