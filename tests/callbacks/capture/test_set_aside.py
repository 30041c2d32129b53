"""The user's code works on copies of what it reaches beside its module, and what it does not reach is left alone."""

import sys
import threading
from types import ModuleType

import pytest
import torch
from torch import nn

from leakage_audit.callbacks.capture.set_aside import set_aside

criterion, seen, total, lock = nn.BatchNorm1d(2), [], 0, threading.Lock()
wandb = ModuleType("wandb")
wandb.rows = []
wandb.log = wandb.rows.append


class Unreached:
    def __deepcopy__(self, memo):
        raise AssertionError("this is not used by forward")


data = Unreached()


class Uncopied:
    def __init__(self):
        self.told = []

    def tell(self, what):
        self.told.append(what)

    def __deepcopy__(self, memo):
        raise TypeError("no")


connection = Uncopied()


def helper(x):
    global total
    total += 1
    seen.append(x.sum().item())
    connection.tell(x)
    return criterion(x)


class Module(nn.Module):
    calls: list[int] = []  # noqa: RUF012

    def forward(self, x):
        self.calls.append(1)
        wandb.log({"x": x})
        with lock:
            return helper(x)

    def train_dataloader(self):
        return data


def state():
    average = criterion.running_mean.clone()
    return average, len(seen), total, len(Module.calls), len(wandb.rows), len(connection.told)


def test_nothing_beside_the_module_moves():
    module, before, objects = Module(), state(), (criterion, seen, wandb, connection, Module.calls)
    with set_aside(module):
        module(torch.rand(4, 2))
        assert len(seen) == before[1] + 1  # the names mean copies, and they work
    after = state()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]
    now = (criterion, seen, wandb, connection, Module.calls)
    assert all(one is other for one, other in zip(objects, now, strict=True))


def test_everything_is_put_back_after_an_error():
    before = sys.modules[__name__].seen
    with pytest.raises(RuntimeError, match="of the audit"), set_aside(Module()):
        raise RuntimeError("of the audit")
    assert seen is before


def test_a_closure():
    held = []

    def loss(scores, y):
        held.append(len(scores))
        return scores.sum()

    with set_aside(nn.Linear(2, 2), loss):
        loss(torch.ones(3, 2), None)
    assert held == []
    loss(torch.ones(3, 2), None)
    assert held == [3]
