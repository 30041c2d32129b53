"""Attacks in a process of their own: training ends normally, whatever becomes of them, and the record says what."""

import json
import os
import signal
import time
from types import SimpleNamespace

import processes
import pytest
import torch
from fits import Allocates, Grey, Net, Raises, Sleeps, fit, same, traces
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from leakage_audit import observe
from leakage_audit.callbacks import LeakageAudit, LeakageGate, LeakageLimitExceeded
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.supported_trainers import refuse_unsupported
from leakage_audit.callbacks.evaluation.background import Worker
from leakage_audit.runtime import Budget

pytestmark = pytest.mark.slow


class Killed(Grey):
    """Is killed, as by the kernel when memory runs out."""

    name = "killed"

    def __init__(self):
        super().__init__()

    def reconstruct(self, seen, budget):
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Breaks(Net):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        raise RuntimeError("broken off")


@pytest.fixture
def quick(monkeypatch):
    """Workers that have imported everything already: where a test is not about how a process starts."""
    found = processes.context()
    monkeypatch.setattr("leakage_audit.callbacks.evaluation.background.get_context", lambda _: found)


def lines(folder):
    return [json.loads(line) for line in next(folder.rglob("audit.jsonl")).read_text().splitlines()]


def background(**settings):
    return LeakageAudit(**({"every_n_steps": 4, "attacks": [Grey()], "limit": 0, "background": True} | settings))


def test_results_are_those_of_the_foreground_at_the_steps_they_belong_to(tmp_path):
    audit = background()
    there = traces(*fit(tmp_path / "there", audit, max_steps=12))
    here = traces(*fit(tmp_path / "here", background(background=False), max_steps=12))
    alone = traces(*fit(tmp_path / "alone", max_steps=12))
    assert same(there, alone)
    assert same(here, alone)
    assert [line["optimizer_step"] for line in lines(tmp_path / "there")] == [0, 4, 8]
    for one, other in zip(lines(tmp_path / "there"), lines(tmp_path / "here"), strict=True):
        one["metrics"].pop("audit/seconds"), other["metrics"].pop("audit/seconds")
        assert one["metrics"] == pytest.approx(other["metrics"])
        assert one["step"] == other["step"]
    assert audit.latest.optimizer_step == 8


@pytest.mark.parametrize(
    ("attacks", "words"),
    [
        ([Raises(), Allocates()], {"problems": ("this attack always fails", "allocates")}),
        ([Killed()], {"skipped": ("the background process died: killed, or out of memory",)}),
    ],
)
def test_attacks_that_misbehave_are_noted(quick, tmp_path, attacks, words):
    attached, _ = fit(tmp_path, background(attacks=attacks), max_steps=6)
    assert attached.global_step == 6
    found = lines(tmp_path)
    assert [line["optimizer_step"] for line in found] == [0, 4]
    for line in found:
        for key, texts in words.items():
            assert all(text in str(line[key]) for text in texts)


def test_slow_audits_are_waited_for_at_the_end(quick, tmp_path):
    audit = background(attacks=[Sleeps()], samples=1, max_seconds=1.0, every_n_steps=1)
    fit(tmp_path, audit, max_steps=4)
    assert [line["optimizer_step"] for line in lines(tmp_path)] == [0, 1, 2, 3]
    assert audit.latest.skipped is None


def test_a_fit_that_breaks_off_does_not_wait(quick, tmp_path):
    with pytest.raises(RuntimeError, match="broken off"):
        fit(tmp_path, background(attacks=[Sleeps()], max_seconds=600.0), module=Breaks)
    assert "the fit ended before the background did" in lines(tmp_path)[0]["skipped"]


def test_a_gate_hears_of_audits_that_end_after_the_last_step(quick, tmp_path):
    with pytest.raises(LeakageLimitExceeded, match="audit/psnr/grey"):
        fit(tmp_path, LeakageGate({"audit/psnr/grey": 0.0}, action="fail"), background(), max_steps=1)


def test_what_cannot_be_sent_is_said(tmp_path):
    audit = background(loss=lambda scores, labels: torch.nn.functional.cross_entropy(scores, labels))
    fit(tmp_path, audit, max_steps=1)
    assert "cannot be sent to the background" in audit.latest.skipped


def test_several_processes_are_refused():
    trainer = SimpleNamespace(strategy=SingleDeviceStrategy("cpu"), optimizers=[object()], world_size=2)
    with pytest.raises(MisconfigurationException, match="with several processes"):
        refuse_unsupported(trainer, nn.Module(), background().settings)


def test_a_worker_killed_while_idle_is_replaced(quick, tmp_path):
    audit = background()

    class Kills(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            worker = audit._session._worker
            if trainer.global_step == 3:
                audit.drain()
                for process in worker._pool._processes.values():
                    process.kill()
                    process.join()

    fit(tmp_path, audit, Kills(), max_steps=6)
    assert [line["optimizer_step"] for line in lines(tmp_path)] == [0, 4]
    assert "skipped" not in lines(tmp_path)[0]


class Deaf(Grey):
    """Does not ask its budget."""

    name = "deaf"

    def __init__(self):
        super().__init__()

    def reconstruct(self, seen, budget):
        time.sleep(600)
        raise AssertionError


def test_what_overstays_is_killed_and_what_waits_behind_it_is_done():
    # Processes that start as slowly as ever: the seconds that it takes are not counted.
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    image, label = torch.rand(1, 3, 4, 4), torch.tensor([2])
    worker = Worker(seconds=0.2, grace=0.2)
    for attack in (Deaf(), Grey()):
        arguments = observe(network, image, label), image, label, {attack.name: attack}
        parcel = worker.packed([(arguments, {"limit": 0.0, "measure": False})], Budget(0.2))
        worker.submit(attack.name, parcel)
    (killed, reason), (done, found) = list(worker.finished(wait=2))
    assert worker.close() == []
    assert (killed, done) == ("deaf", "grey")
    assert isinstance(reason, AuditSkipped)
    assert "out of time" in str(reason)
    assert "raise max_seconds" in str(reason)
    assert found[0].outcomes["grey"].no_result is None
