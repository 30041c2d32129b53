import lightning as L
import pytest
import torch
from torch import nn

from leakage_audit.callbacks.capture.model_copy import find_scores, follow, locate, tensors_in
from leakage_audit.callbacks.capture.module_copy import copy_module


def body():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5))


class Whole(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = body()

    def forward(self, x):
        return self.net(x)

    def scores(self, x):
        return 2 * self.net(x)


class Bare(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = body()
        self.loss_fn = nn.CrossEntropyLoss()


def twice(module, x):
    return 2 * module.net(x)


X = torch.rand(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("cls", "forward", "factor"),
    [
        (Whole, None, 1),
        (Bare, None, 1),
        (Whole, "net", 1),
        (Whole, "scores", 2),
        (Whole, twice, 2),
        (Bare, f"{__name__}.twice", 2),
    ],
)
def test_scores_and_names_are_the_modules(cls, forward, factor, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(twice=twice))
    module = cls().eval()
    classifier = locate(module, forward)
    network = classifier.network(copy_module(module, None)[0], plain_output=True)
    assert torch.equal(network(X), factor * module.net(X))
    names = {classifier.name_in_module(network, name) for name, _ in network.named_parameters()}
    assert names == {name for name, _ in module.named_parameters()}


def test_names_leave_compile_wrappers_out():
    module = Whole()
    module.net = torch.compile(module.net, backend="eager")
    classifier = locate(module, "net")
    network = classifier.network(copy_module(module, None)[0], plain_output=True)
    assert {classifier.name_in_module(network, name) for name, _ in network.named_parameters()} == {
        name for name, _ in Whole().named_parameters()
    }


@pytest.mark.parametrize(
    ("forward", "message"), [("nowhere", "'nowhere' is neither"), ("no.such.place", "'no.such.place' is neither")]
)
def test_a_name_that_is_nowhere_is_refused(forward, message):
    with pytest.raises(ValueError, match=message):
        locate(Whole(), forward)


def test_several_candidates_are_refused_by_name():
    module = Bare()
    module.decoder = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"no forward .* \(net, decoder\)"):
        locate(module, None)


FEATURES, SCORES = torch.rand(4, 7), torch.rand(4, 5)


@pytest.mark.parametrize(
    "output",
    [
        {"features": FEATURES, "logits": SCORES},
        (SCORES, FEATURES),
        [None, SCORES],
        {"loss": SCORES.mean(), "pred": SCORES},
    ],
)
def test_scores_are_found_in_outputs(output):
    assert find_scores(output) is SCORES
    (path,) = [path for path, tensor in tensors_in(output) if tensor is SCORES]
    assert follow(output, path) is SCORES
