import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import nn

from leakage_audit.attacks import RGAP, CosineTV, Joint
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.layerwise.last_layer import last_layer, why_no_last_layer
from leakage_audit.observation import observe
from leakage_audit.scores.metrics import score

CLASSES = 5


class Backwards(nn.Module):
    """The head is defined first, then two layers of the body and an auxiliary head that nothing calls."""

    def __init__(self, bias=True, uses=1):
        super().__init__()
        self.head = nn.Linear(9, CLASSES, bias=bias)
        self.conv, self.hidden = nn.Conv2d(3, 6, 3), nn.Linear(216, 9)
        self.auxiliary, self.uses = nn.Linear(9, 12), uses

    def forward(self, x):
        x = torch.tanh(self.hidden(torch.tanh(self.conv(x)).flatten(1)))
        return self.head(x) if self.uses == 1 else self.head(x) + self.head(x)


def network(**options):
    torch.manual_seed(0)
    return Backwards(**options).double()


@pytest.mark.parametrize("label", range(CLASSES))
@pytest.mark.parametrize("bias", [True, False])
def test_the_order_of_execution_counts_not_that_of_definition(label, bias):
    seen = observe(network(bias=bias), draw(1, 3, 8, 8), label)
    assert last_layer(seen).name == "head"
    assert labels_for(seen)[0].tolist() == [label]


@pytest.mark.parametrize("attack", [RGAP(), Joint()], ids=["rgap", "joint"])
def test_attacks_on_a_head_that_is_defined_first(attack):
    image = 0.5 + 0.1 * draw(1, 3, 8, 8)
    found = attack(observe(network(), image, 2, mean=0.5))
    assert score(found.images, image).psnr[0] > 100


def test_features_of_one_image_are_the_layers_input():
    """Lemma 3.1, every class by itself."""
    net, x = network(), draw(1, 3, 8, 8)
    last = last_layer(observe(net, x, 2))
    body = torch.tanh(net.hidden(torch.tanh(net.conv(x)).flatten(1))).detach()
    torch.testing.assert_close(last.features, body.expand(CLASSES, -1), rtol=1e-9, atol=1e-12)
    expected = (torch.softmax(net(x), 1) - F.one_hot(torch.tensor([2]), CLASSES))[0]
    torch.testing.assert_close(last.delta, expected.detach())
    assert (last.parameter("weight"), last.weight.shape) == ("head.weight", (CLASSES, 9))


def test_a_head_that_is_used_twice():
    seen = observe(network(uses=2), draw(1, 3, 8, 8), 1)
    assert last_layer(seen) is None
    with pytest.raises(ValueError, match="head, is used twice: its gradient is a sum"):
        labels_for(seen)
    assert (
        CosineTV(iterations=2)(observe(network(uses=2), draw(1, 3, 8, 8), 1, grant_labels=True)).images.isfinite().all()
    )


def test_a_head_that_is_not_reached():
    net = nn.Sequential(nn.Conv2d(3, CLASSES, 8), nn.Flatten()).double()
    seen = observe(net, draw(1, 3, 8, 8), 1)
    assert (last_layer(seen), why_no_last_layer(seen)) == (None, "the network has no fully connected layer")
    net.unused = nn.Module()
    net.unused.fc = nn.Linear(3, 3).double()
    net.unused.forward = lambda x: x
    assert "reached by the forward pass" in why_no_last_layer(observe(net, draw(1, 3, 8, 8), 1))


class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1))


def test_the_network_itself():
    last = last_layer(observe(Flat(8, 3), torch.rand(1, 1, 2, 4), 1))
    assert (last.name, last.parameter("bias")) == ("", "bias")


def test_the_network_is_left_as_it_was_and_may_die():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)).train()
    seen = observe(net, torch.rand(2, 3, 8, 8), [0, 1])
    before = {name: value.clone() for name, value in seen.network.state_dict().items()}
    random = torch.get_rng_state()
    assert last_layer(seen).name == "4"
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in seen.network.state_dict().items())
    assert not any(module._forward_hooks for module in seen.network.modules())
    assert seen.network.training
    alive = weakref.ref(seen.network)
    del seen
    gc.collect()
    assert alive() is None


def test_one_forward_pass_an_observation():
    seen = observe(network(), draw(1, 3, 8, 8), 1)
    calls = []
    seen.network.register_forward_hook(lambda *_: calls.append(1))
    assert last_layer(seen).name == last_layer(seen).name
    assert len(calls) == 1
