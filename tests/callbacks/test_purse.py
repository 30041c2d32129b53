"""One purse: whatever an audit copies or keeps is asked for first, and no more is held than was asked for."""

import copy
import gc
import pickle
import weakref

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from fits import Grey, Net, fit, lines
from lightning import Callback
from live import Live
from torch import nn

from leakage_audit import observe
from leakage_audit.attacks import DLG, RGAP, CosineTV, Joint
from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.capture import step_copies
from leakage_audit.callbacks.capture.gradient_check import PIECE, compare
from leakage_audit.callbacks.capture.rng_isolation import isolated
from leakage_audit.callbacks.capture.step_copies import COPIES, GRADIENTS
from leakage_audit.callbacks.capture.step_reader import StepReader
from leakage_audit.callbacks.evaluation.background import Worker
from leakage_audit.callbacks.evaluation.evaluate import evaluate_all
from leakage_audit.matching import objective
from leakage_audit.observation import copy_network
from leakage_audit.runtime import Budget, OutOfMemory, bytes_of


class Wide(L.LightningModule):
    """Many weights and few activations: 4 MB of copies against a few kilobytes of passes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 1000), nn.Tanh(), nn.Linear(1000, 800), nn.Linear(800, 5))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Reads(Callback):
    """Reads a step, and notes the memory that it takes from the start of the window on."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.reader = StepReader()
        there = [*pl_module.parameters(), *batch]
        self.live = Live(*there)
        with isolated(), self.live:
            self.reader.begin(pl_module, trainer)
            self.window = [self.reader.micro_batch(batch, batch_idx)]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.live.leave_out(*(p.grad for p in pl_module.parameters()))
        with isolated(), self.live:
            assert self.reader.read(trainer, pl_module, optimizer, self.window).check.same
            x, labels = self.reader.pairs(trainer, pl_module, self.window)[0]
            self.live.peak_of_reading = self.live.peak
            self.sample = self.reader.sample(trainer, pl_module, x[0], labels[0])
        self.kept, self.needed = self.reader.copies.held, self.reader.copies.one_more
        self.reader.forget()


def test_reading_a_step_holds_what_was_asked_for(tmp_path):
    reads = Reads()
    _, module = fit(tmp_path, reads, module=Wide, max_steps=1)
    weights = bytes_of(module.parameters())
    asked = (COPIES + GRADIENTS) * weights
    assert 0.7 * asked < reads.live.peak_of_reading < 1.02 * asked
    assert reads.live.peak < 1.02 * asked
    assert reads.kept == weights
    assert reads.needed == 2 * weights == bytes_of(reads.sample.seen.tensors)


def test_copies_are_gone_as_soon_as_nobody_holds_them(tmp_path):
    attached, module = fit(tmp_path, max_steps=1)
    gc.collect()
    gc.disable()
    try:
        made = step_copies.StepCopies().copy(module, attached)
        copies = step_copies.StepCopies()
        again = [copies.copy(made, attached), copy_network(made), pickle.loads(pickle.dumps(made))]
        assert copies.dropped == []
        gone = [weakref.ref(one) for one in (made, *again, copy.deepcopy(again[0]))]
        del made, again
        assert [one() for one in gone] == [None] * 5
    finally:
        gc.enable()


def test_gradients_are_compared_piece_by_piece():
    step = {"w": torch.randn(3 * PIECE), "b": torch.randn(7)}
    again = {name: g * (1 + 1e-6) for name, g in step.items()}
    with Live() as live:
        check = compare(step, again, torch.float32)
    assert live.largest[torch.float64] <= PIECE
    whole = torch.cat([g.double() for g in step.values()])
    other = torch.cat([g.double() for g in again.values()])
    assert check.rest == pytest.approx(float((whole - other).norm() / whole.norm()), rel=1e-9)
    assert check.scale == pytest.approx(float(whole @ other / (other @ other)), rel=1e-12)


def test_a_step_that_cannot_be_read_in_the_memory_is_not_copied_and_said_once(tmp_path, monkeypatch, caplog):
    def refused(*_):
        raise AssertionError("copied")

    monkeypatch.setattr(step_copies, "copy_module", refused)
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], limit=0, max_memory_gb=1e-6, on_error="raise")
    fit(tmp_path, audit, max_steps=3)
    assert audit.latest.skipped.startswith("reading a step needs about 1.2e-05 GB of memory")
    assert "max_memory_gb = 1e-06 allows less" in audit.latest.skipped
    assert len(lines(tmp_path)) == 3
    said = [r for r in caplog.records if "audit of optimiser step" in r.message]
    assert [record.levelname for record in said] == ["WARNING"]


def test_what_the_audit_holds_already_counts(tmp_path):
    size = bytes_of(Net().parameters())
    audit = LeakageAudit(attacks=[Grey()], samples=1, limit=0, max_memory_gb=5.5 * size / 1e9)
    fit(tmp_path, audit, max_steps=1)
    assert audit.latest.skipped is None
    audit = LeakageAudit(attacks=["joint"], samples=1, limit=0, max_memory_gb=5.5 * size / 1e9)
    fit(tmp_path / "joint", audit, max_steps=1)
    reason = audit.latest.no_results["joint"][1]
    assert reason.startswith("weights and gradients in double precision needs about")
    assert f"beside {3 * size / 1e9:.2g} GB that are held already" in reason


def test_one_observation_is_held_at_a_time():
    networks = []

    def jobs():
        for _ in range(3):
            gc.collect()
            assert not any(network() is not None for network in networks)
            network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
            seen = observe(network, torch.rand(1, 3, 4, 4), 2)
            networks.append(weakref.ref(seen.network))
            yield (seen, torch.rand(1, 3, 4, 4), torch.tensor([2]), {"grey": Grey()}), {"limit": 0.0, "measure": False}
            del seen

    found = evaluate_all(jobs(), 3, Budget())
    assert [evaluation.outcomes["grey"].no_result for evaluation in found] == [None] * 3


def seen(wide=True):
    torch.manual_seed(0)
    if wide:
        network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(392, 500), nn.Linear(500, 9))
    else:
        layers = [(nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.Tanh()) for i in range(6)]
        head = nn.AvgPool2d(4), nn.Flatten(), nn.Linear(256, 9)
        network = nn.Sequential(*(part for pair in layers for part in pair), *head)
    return observe(network, torch.rand(1, 3, 16, 16), 2, mean=0.5)


class Asked(Budget):
    """Notes how much it was asked for at once."""

    most = 0.0

    def require_memory(self, what, memory):
        self.most = max(self.most, memory + self._held[0])
        super().require_memory(what, memory)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("attack", [CosineTV(iterations=2, restarts=1), DLG(iterations=1)], ids=lambda a: a.name)
def test_first_order_attacks_hold_what_they_ask_for(attack, wide):
    step, budget = seen(wide), Asked(memory_gb=1.0)
    with Live(*step.tensors) as live:
        attack.reconstruct(step, budget)
    assert 0.2 * budget.most < live.peak < 1.1 * budget.most


@pytest.mark.parametrize("attack", [CosineTV(iterations=2), DLG(iterations=1), RGAP(), Joint()], ids=lambda a: a.name)
def test_attacks_that_do_not_fit_begin_nothing(attack, monkeypatch):
    def refused(*_):
        raise AssertionError("copied")

    monkeypatch.setattr(objective, "copy_network", refused)
    step = seen()
    with Live(*step.tensors) as live, pytest.raises(OutOfMemory, match=r"max_memory_gb = 0\.0005 allows less"):
        attack(step, Budget(memory_gb=5e-4))
    assert live.peak < 1e5


def test_results_are_judged_in_the_gradients_own_type_where_double_precision_does_not_fit():
    step = seen()
    free = CosineTV(iterations=3, restarts=1)(step)
    held = CosineTV(iterations=3, restarts=1)(step, Budget(memory_gb=5e-3))
    assert torch.equal(free.images, held.images)
    assert held.misfit == pytest.approx(free.misfit, rel=1e-2)


def test_the_background_gets_what_is_left_of_time_and_memory():
    class Clock(Budget):
        spent = 3.0

    step = seen()
    job = (step, torch.rand(1, 3, 16, 16), torch.tensor([2]), {"grey": Grey()}), {"limit": 0.0, "measure": False}
    worker = Worker(10.0, limit=2)
    parcel = worker.packed([job], Clock(10.0, memory_gb=1.0))
    assert parcel.seconds == 7.0
    assert parcel.memory_gb == 1.0
    assert parcel.held == 3 * len(parcel.jobs[0]) > 3 * bytes_of(step.tensors)
    with pytest.raises(OutOfMemory, match="what the background is sent needs about"):
        worker.packed([job], Budget(memory_gb=parcel.held / 2e9))
