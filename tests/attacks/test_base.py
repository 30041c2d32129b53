import pytest
import torch
from torch import nn

from leakage_audit.attacks import CosineTV
from leakage_audit.attacks.base import Attack, Found
from leakage_audit.observation import observe


class Draws(Attack):
    """Draws from torch's global stream, as dropout does, and hands out what it has drawn."""

    name = "draws"

    def reconstruct(self, seen, budget):
        return Found(torch.rand(1, *seen.input_shape), True, "drawn", 0.0)


def look(layers=()):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.Flatten(), nn.Linear(144, 3))
    return observe(network, torch.rand(3, 8, 8), 1, mean=0.5)


def test_global_stream_is_kept_and_does_not_matter():
    seen, images = look(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        images.append(Draws()(seen).images)
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*images)


def test_dropout_in_train_mode_leaves_the_stream_alone():
    seen = look([nn.Dropout()])
    assert seen.network.training
    before = torch.get_rng_state()
    CosineTV(iterations=2)(seen)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("fill", "reason"), [(0.0, "every gradient is zero"), (float("nan"), "NaN")])
def test_gradients_that_hold_nothing_give_grey_and_a_reason(fill, reason):
    seen = look()
    for gradient in seen.gradients.values():
        gradient.fill_(fill)
    found = Draws()(seen)
    assert torch.equal(found.images, torch.full((1, 3, 8, 8), 0.5))
    assert not found.converged
    assert reason in found.ended
    assert found.settings == {}
    assert found.attack == "draws"


def test_works_where_gradients_are_switched_off():
    seen = look()
    with torch.inference_mode():
        found = CosineTV(iterations=2)(seen)
    assert found.images.shape == (1, 3, 8, 8)
