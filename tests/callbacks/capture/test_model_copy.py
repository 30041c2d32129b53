import lightning as L
import pytest
import torch
from torch import nn

from leakage_audit.callbacks.capture.model_copy import ModelCopy


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
def test_scores_and_names_are_the_modules(cls, forward, factor):
    module = cls()
    model_copy = ModelCopy(module, forward)
    model_copy.refresh(module)
    module.eval()
    model_copy.refresh(module)
    assert torch.equal(model_copy.network(X), factor * module.net(X))
    names = {model_copy.name_in_module(name) for name, _ in model_copy.network.named_parameters()}
    assert names == {name for name, _ in module.named_parameters()}


def test_refresh_takes_weights_buffers_modes_and_freezing():
    module = Whole()
    model_copy = ModelCopy(module)
    model_copy.refresh(module)
    with torch.no_grad():
        for p in module.parameters():
            p += 1
    module.net[1].running_mean += 3
    module.net[1].eval()
    module.net[0].requires_grad_(False)
    model_copy.refresh(module)
    for (name, own), (_, theirs) in zip(
        model_copy.network.state_dict().items(), module.state_dict().items(), strict=True
    ):
        assert torch.equal(own, theirs), name
    assert [m.training for m in model_copy.network.modules()] == [m.training for m in module.modules()]
    assert [p.requires_grad for p in model_copy.network.parameters()] == [p.requires_grad for p in module.parameters()]


def test_a_rebuilt_module_is_copied_anew():
    module = Whole()
    model_copy = ModelCopy(module)
    model_copy.refresh(module)
    module.net[4] = nn.Linear(4 * 36, 9)
    model_copy.refresh(module)
    assert model_copy.network(X).shape == (4, 9)


def test_the_twin_shares_nothing_with_the_module():
    module = Whole()
    calls = []
    module.net.register_forward_hook(lambda *_: calls.append(1))
    module(X).sum().backward()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    grads = [p.grad.clone() for p in module.parameters()]
    calls.clear()
    model_copy = ModelCopy(module)
    model_copy.refresh(module)
    model_copy.network(X).sum().backward()
    assert calls == []
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), grads, strict=True))
    assert len(module.net._forward_hooks) == 1


def test_weight_norm_computes_and_is_kept():
    module = Whole()
    module.net[4] = nn.utils.parametrizations.weight_norm(module.net[4])
    module.net[0] = nn.utils.spectral_norm(module.net[0])
    module.eval()
    model_copy = ModelCopy(module)
    model_copy.refresh(module)
    assert torch.equal(model_copy.network(X), module(X))


def test_compiled_parts_are_copied_eagerly():
    module = Whole()
    module.net = torch.compile(module.net)
    model_copy = ModelCopy(module)
    model_copy.refresh(module)
    assert not any("_orig_mod" in name for name, _ in model_copy.network.named_modules())
    assert model_copy.name_in_module("net.0.weight") == "net.0.weight"
    with torch.no_grad():
        module.net._orig_mod[0].weight += 1
    model_copy.refresh(module)
    assert torch.equal(model_copy.network.net[0].weight, module.net._orig_mod[0].weight)


@pytest.mark.parametrize(
    ("forward", "message"), [("nowhere", "'nowhere' is neither"), ("no.such.place", "'no.such.place' is neither")]
)
def test_a_name_that_is_nowhere_is_refused(forward, message):
    with pytest.raises(ValueError, match=message):
        ModelCopy(Whole(), forward)


def test_several_candidates_are_refused_by_name():
    module = Bare()
    module.decoder = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"several or no parts with parameters \(net, decoder\)"):
        ModelCopy(module)


def test_a_module_that_cannot_be_copied_is_refused_with_a_way_out():
    module = Whole()
    module.kept = module.net(X)
    with pytest.raises(ValueError, match=r"cannot be copied .* by `forward`"):
        ModelCopy(module).refresh(module)
    model_copy = ModelCopy(module, "net")
    model_copy.refresh(module)
    assert model_copy.network(X).shape == (4, 5)
