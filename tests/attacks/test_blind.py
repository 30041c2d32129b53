"""No attack ever sees the true image: looked for in every signature, in what is observed, and in every call."""

import gc
import inspect
import sys
from types import FunctionType, ModuleType

import pytest
import torch
from torch import Tensor, nn

from leakage_audit.attacks import ATTACKS
from leakage_audit.attacks.base import Attack
from leakage_audit.observation import Observation, observe

SETTINGS = {
    "hybrid": {"scale": 0.001},
    "dlg": {"iterations": 1},
    "cosine_tv": {"iterations": 2},
    "joint": {"max_steps": 2},
}


def look():
    """An observation whose image is gone, and a witness that can tell the image but not give it back."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(54, 4))
    image = torch.rand(1, 3, 8, 8)
    seen = observe(network, image, 2, mean=0.5)
    marks = [image.double().sum().item(), (image - 0.5).double().sum().item()]
    shapes = {tuple(image.shape), tuple(image.shape[1:]), (image.numel(),)}
    del image
    gc.collect()

    def is_image(value):
        """The same size and the same sum: no reconstruction meets this to the last digit."""
        if not isinstance(value, Tensor) or tuple(value.shape) not in shapes or not value.is_floating_point():
            return False
        if torch._C._functorch.is_functorch_wrapped_tensor(value):  # inside vmap and jvp: no numbers to look at
            return False
        return any(abs(value.detach().double().sum().item() - mark) < 1e-9 for mark in marks)

    return seen, is_image


def reachable(root):
    """Every object that can be got at from one, code and modules aside."""
    found, todo = {}, [root]
    while todo:
        thing = todo.pop()
        if id(thing) not in found and not isinstance(thing, ModuleType | FunctionType | type):
            found[id(thing)] = thing
            todo += gc.get_referents(thing)
    return found.values()


def test_the_witness_knows_the_image():
    _, is_image = look()
    torch.manual_seed(0)
    nn.Sequential(nn.Conv2d(3, 6, 3, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(54, 4))
    image = torch.rand(1, 3, 8, 8)
    assert is_image(image)
    assert is_image((image - 0.5).double())
    assert not is_image(image + 1e-5)


def test_nothing_that_an_observation_holds_is_the_image():
    seen, is_image = look()
    tensors = [thing for thing in reachable(seen) if isinstance(thing, Tensor)]
    assert len(tensors) >= 6  # weights and gradients
    assert not [thing for thing in tensors if is_image(thing)]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_signatures_have_no_place_for_it(attack):
    hints = inspect.signature(attack.reconstruct).parameters
    assert list(hints) == ["self", "seen", "budget"]
    assert attack.__call__ is Attack.__call__
    assert list(inspect.signature(attack.__call__).parameters) == ["self", "seen", "budget"]
    assert not [p for p in inspect.signature(attack).parameters if p in ("image", "images", "truth", "target", "x")]


@pytest.mark.parametrize("name", ATTACKS)
def test_no_call_of_an_attack_ever_holds_it(name):
    seen, is_image = look()
    attack, calls, caught = ATTACKS[name](**SETTINGS.get(name, {})), set(), []

    def watch(frame, event, argument):
        module = frame.f_globals.get("__name__", "")
        if event in ("call", "return") and module.startswith("leakage_audit"):
            calls.add(module)
            caught.extend(
                (module, frame.f_code.co_name, local) for local, value in frame.f_locals.items() if is_image(value)
            )

    sys.setprofile(watch)
    try:
        found = attack(seen)
    finally:
        sys.setprofile(None)
    assert not caught
    assert f"leakage_audit.attacks.{name}" in calls
    assert "leakage_audit.scores.metrics" not in calls
    assert found.images.shape == (1, 3, 8, 8)


def test_an_observation_has_no_field_for_it():
    fields = set(Observation.__dataclass_fields__)
    assert fields == {
        "network", "gradients", "input_shape", "batch_size", "loss", "labels", "mean", "std", "value_range",
        "class_targets", "noise", "intervals",
    }  # fmt: skip
