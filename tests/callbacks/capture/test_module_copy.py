"""A copy that has everything of the module and nothing of its training."""

import copy
import pickle
import threading
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.module_copy import copy_module

X = torch.rand(4, 3, 8, 8)


class Whole(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))
        self.temperature, self.weights = 2.0, [1.0, {"a": 2.0}]

    def forward(self, x):
        return self.net(x) / self.temperature


def trainer(**kwargs):
    return SimpleNamespace(current_epoch=3, global_step=7, logger="a logger", optimizers=["one"], **kwargs)


def test_it_is_equal_and_shares_nothing():
    module = Whole()
    module.net[1].eval()
    module.net[0].requires_grad_(False)
    calls = []
    module.net.register_forward_hook(lambda *_: calls.append(1))
    module(X).sum().backward()
    before = copy.deepcopy(module.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    calls.clear()
    made, dropped = copy_module(module, None)
    assert not dropped
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), before.values(), strict=True))
    assert [m.training for m in made.modules()] == [m.training for m in module.modules()]
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in module.parameters()]
    made(X).sum().backward()
    made.weights[1]["a"] = 5.0
    assert calls == []
    assert module.weights == [1.0, {"a": 2.0}]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(
        a is b is None or torch.equal(a.grad, b)
        for a, b in zip(module.parameters(), grads, strict=True)
        if b is not None
    )
    assert len(module.net._forward_hooks) == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", amount=0.3),
    ],
)
def test_weights_that_are_functions_of_parameters_stay_so(change):
    module = Whole()
    change(module.net[3])
    module(X)  # leaves a weight with a graph behind
    made, dropped = copy_module(module.eval(), None)
    assert not dropped
    assert torch.equal(made(X), module(X))
    own = made.net[3]
    (gradient,) = torch.autograd.grad(made(X).square().sum(), next(iter(own.parameters())))
    assert gradient.any()


def test_graphs_metrics_and_generators_come_along():
    module = Whole()
    module.kept, module.mean = [module(X)], MeanMetric()
    module.mean.update(module(X).sum())
    module.generator = torch.Generator().manual_seed(3)
    made, dropped = copy_module(module, None)
    assert not dropped
    assert torch.equal(made.kept[0], module.kept[0])
    assert made.kept[0].grad_fn is None
    assert torch.equal(made.mean.compute(), module.mean.compute())
    first = torch.rand(3, generator=made.generator)
    assert torch.equal(torch.rand(3, generator=module.generator), first)


def test_what_cannot_be_copied_is_left_out_and_named():
    module = Whole()
    module.lock, module.stream = threading.RLock(), (i for i in range(3))
    module.parts = {"stream": module.stream, "number": 4}
    made, dropped = copy_module(module, None)
    assert dropped == ["stream (generator)"]
    assert made.parts == {"stream": None, "number": 4}
    with made.lock:
        assert next(module.stream) == 0
    assert torch.equal(copy.deepcopy(made).eval()(X), pickle.loads(pickle.dumps(made)).eval()(X))


def test_the_trainer_is_read_and_not_touched():
    module = Whole()
    module._trainer = trainer()
    made, _ = copy_module(module, module._trainer)
    module._trainer.global_step = 9
    for one in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made)), copy_module(made, module._trainer)[0]):
        assert (one.current_epoch, one.global_step) == (3, 7)
        one.log("loss", 1.0)
        one.trainer.should_stop = True
        one.trainer.logger.experiment.add_scalar("loss", 1.0)  # a silent one, whatever is asked of it
        with pytest.raises(AuditSkipped, match="asks the trainer for `optimizers`"):
            one.trainer.optimizers  # noqa: B018
    assert not hasattr(module._trainer, "should_stop")


def test_compiled_parts_are_copied_eagerly():
    module = Whole()
    module.net = torch.compile(module.net, backend="eager")
    made, _ = copy_module(module, None)
    assert not any("_orig_mod" in name for name, _ in made.named_modules())
    assert torch.equal(made.eval()(X), module.net._orig_mod.eval()(X) / 2)
