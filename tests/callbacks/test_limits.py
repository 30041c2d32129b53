"""One clock and one purse: how an audit shares out its time, and what becomes of that which they do not reach."""

import os
import signal
from typing import ClassVar

import pytest
import ticking
import torch
from fits import Grey, Net, Sleeps, fit, lines
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from leakage_audit import observe
from leakage_audit.attacks import DLG, CosineTV
from leakage_audit.callbacks import LeakageAudit, limits_of_audit
from leakage_audit.callbacks.capture import step_copies
from leakage_audit.callbacks.evaluation.evaluate import evaluate_all
from leakage_audit.runtime import Budget


class Clock(Budget):
    """Set by hand; its shares are, too."""

    now: ClassVar[list[float]] = [0.0]

    @property
    def spent(self):
        return self.now[0]

    def share(self, part=1.0):
        given = Clock.__new__(Clock)
        given.__dict__.update(super().share(part).__dict__)
        given.seconds = self.now[0] + part * self.left  # counted from the same zero
        return given


class Takes(Grey):
    """Notes how long it may work, and works so long."""

    name: ClassVar[str] = "takes"

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.offered = seconds, []

    def reconstruct(self, seen, budget):
        self.offered.append(round(budget.left, 6))
        Clock.now[0] += self.seconds
        return super().reconstruct(seen, budget)


def job(*attacks, limit=0.0, measure=False):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 5))
    image, label = torch.rand(1, 3, 6, 6), torch.tensor([2])
    arguments = observe(network, image, label), image, label, {attack.name: attack for attack in attacks}
    return arguments, {"limit": limit, "measure": measure}


@pytest.fixture(autouse=True)
def _midnight():
    Clock.now[0] = 0.0


class Other(Takes):
    name: ClassVar[str] = "other"


def test_images_and_attacks_get_equal_shares_and_leave_what_they_do_not_need():
    first, second = Takes(1.0), Other(2.0)
    evaluate_all([job(first, second), job(first, second)], 2, Clock(20.0))
    assert first.offered == [5.0, (20.0 - 3.0) / 2]
    assert second.offered == [10.0 - 1.0, 20.0 - 3.0 - 1.0]


def test_the_limit_has_its_share_kept():
    attack = Takes(1.0)
    evaluate_all([job(attack, limit=0.25)], 1, Clock(20.0))
    assert attack.offered == [15.0]


def test_what_is_not_reached_has_neither_number_nor_picture():
    first, second = Takes(30.0), Other(1.0)
    found = evaluate_all([job(first, second, limit=0.25, measure=True), job(first, second)], 2, Clock(20.0))
    assert second.offered == []
    assert found[0].outcomes["takes"].no_result == "out of time"
    assert found[0].problems == {"other": "out of time", "limit": "out of time"}
    assert found[1].problems == {"takes": "out of time", "other": "out of time"}
    assert not found[1].outcomes
    assert found[0].security is not None


def test_an_attack_that_foresees_its_end_did_not_end_by_itself():
    class Long(Takes):
        def reconstruct(self, seen, budget):
            for _ in budget.steps(100, "walking"):
                Clock.now[0] += 4.0
            return Grey.reconstruct(self, seen, budget)

    (found,) = evaluate_all([job(Long(0.0))], 1, Clock(10.0))
    assert Clock.now[0] == 8.0
    assert found.outcomes["takes"].no_result == "out of time"


def test_what_does_not_fit_in_memory_says_which_setting_to_raise(tmp_path):
    audit = LeakageAudit(attacks=["joint"], samples=1, limit=0, max_memory_gb=2e-5)
    fit(tmp_path, audit, max_steps=1)
    (line,) = lines(tmp_path)
    assert "max_memory_gb = 2e-05 allows less" in line["problems"]["joint"]
    assert line["samples"][0]["attacks"] == {}
    assert line["no_result"]["joint"] == line["problems"]["joint"]


def test_a_counted_c_says_so_everywhere(tmp_path, caplog):
    audit = LeakageAudit(attacks=[Grey()], samples=1, limit=0, max_memory_gb=2e-5)
    fit(tmp_path, audit, max_steps=1)
    (line,) = lines(tmp_path)
    assert line["c_counted"].startswith("counted from the shapes of")
    assert {layer["condition"] for layer in line["layers"]} == {None}
    assert all("counted" in layer["remark"] for layer in line["layers"])
    assert any("c(M) is counted from the shapes of" in message for message in caplog.messages)
    assert audit.latest.metrics["audit/c"] == line["c"]


def test_a_step_that_cannot_be_read_in_time_is_skipped_with_the_setting_that_cures_it(tmp_path):
    audit = LeakageAudit(attacks=[Grey()], max_seconds=1e-9)
    fit(tmp_path, audit, max_steps=1)
    assert audit.latest.skipped == ("out of time: the step could not be read within max_seconds = 1e-09; raise it")


class Ticking(Net):
    def __init__(self):
        super().__init__()
        self.net.insert(0, ticking.Ticks(8))


@pytest.mark.parametrize("seconds", [0.5, 2.5, 6.0, 20.0])
@pytest.mark.parametrize("gradient", ["step", "sample"])
def test_a_whole_audit_overstays_by_no_more_than_a_pass(tmp_path, monkeypatch, gradient, seconds):
    class Timed(LeakageAudit):
        def on_before_optimizer_step(self, *arguments):
            begun = ticking.Clock.now[0]
            super().on_before_optimizer_step(*arguments)
            self.took = ticking.Clock.now[0] - begun

    monkeypatch.setattr(limits_of_audit, "Budget", ticking.Clock)
    attacks = ["joint", CosineTV(iterations=10**6), DLG(iterations=10**6)]
    audit = Timed(attacks=attacks, gradient=gradient, max_seconds=seconds, max_memory_gb=1.0)
    fit(tmp_path, audit, module=Ticking, max_steps=1)
    assert audit.took <= 1.2 * seconds + 1
    assert (audit.latest.skipped is None) == (seconds > 5)


def test_sigterm_ends_a_fit_in_an_audit(tmp_path):
    class Signalled(Sleeps):
        def reconstruct(self, seen, budget):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().reconstruct(seen, budget)

    audit = LeakageAudit(attacks=[Signalled()], samples=1, limit=0, max_seconds=None)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, audit, max_steps=6)
    (line,) = lines(tmp_path)
    assert line["no_result"] == {"sleeps": "out of time"}


def test_measured_steps_are_not_copied_once_their_shapes_are_known(tmp_path, monkeypatch):
    copies, copy_module = [], step_copies.copy_module

    def counted(module, trainer):
        copies.append(trainer.global_step)
        return copy_module(module, trainer)

    class Measures(LeakageAudit):
        def should_audit(self, step):
            return False

    monkeypatch.setattr(step_copies, "copy_module", counted)
    audit = Measures(measure_every_n_steps=1)
    fit(tmp_path, audit, max_steps=8)
    assert audit.latest.optimizer_step == 7
    assert audit.latest.metrics["audit/c"] <= 0
    assert set(copies) == {0}
