import importlib
import json
import logging

import pytest
import torch
from fits import Grey, fit
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leakage_audit.attacks.base import Found
from leakage_audit.callbacks import LeakageAudit, LeakageGate, LeakageLimitExceeded


class Improves(Grey):
    """PSNR 10, 20, 30, … dB, an audit each: noise of known size on the truth, which only a test may know."""

    name = "improves"

    def __init__(self):
        super().__init__()
        self.calls = 0

    def reconstruct(self, seen, budget):
        self.calls += 1
        return Found(torch.full((1, *seen.input_shape), 0.5 + 10 ** (-self.calls / 2)), True, "", 0.0)


def audited(**settings):
    """Audits of one image that is mid-grey throughout, so that the attack's distance from it is its error."""
    return LeakageAudit(**({"every_n_steps": 1, "attacks": [Improves()], "samples": 1} | settings))


@pytest.fixture
def grey(monkeypatch):
    from leakage_audit.readings import attackers

    monkeypatch.setattr(attackers, "score", lambda images, truth: real(images, torch.full_like(truth, 0.5)))


def real(images, truth):
    from leakage_audit.scores.metrics import score

    return score(images, truth)


pytestmark = pytest.mark.usefixtures("grey")


def run(folder, gate, **kwargs):
    return fit(folder, gate, kwargs.pop("audit", None) or audited(), **kwargs)[0]


def record(folder):
    lines = [json.loads(line) for line in next(folder.rglob("audit.jsonl")).read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "gate"]
    assert len(found) == 1
    return found[0]


def test_a_fit_under_its_limits_passes(tmp_path):
    gate = LeakageGate({"audit/psnr/*": 60.5, "audit/c": 0.0}, action="fail")
    assert run(tmp_path, gate).global_step == 6
    assert gate.verdict == "passed"
    assert record(tmp_path)["verdict"] == "passed"


@pytest.mark.parametrize(("patience", "steps"), [(1, 3), (2, 4)])
def test_failing_raises_at_the_audit_that_exceeds(tmp_path, patience, steps):
    audit = audited()
    gate = LeakageGate({"audit/psnr/*": 25.0}, patience=patience, action="fail")
    with pytest.raises(
        LeakageLimitExceeded, match=rf"step {steps - 1}: audit/psnr/improves = {10 * steps} is above 25"
    ):
        run(tmp_path, gate, audit=audit)
    assert audit.latest.optimizer_step == steps - 1
    found = record(tmp_path)
    assert found["verdict"] == "exceeded"
    assert [v["value"] for v in found["violations"]] == pytest.approx([30.0, 40.0][:patience], abs=1e-3)


def test_stopping_ends_the_fit_cleanly(tmp_path):
    gate = LeakageGate({"audit/psnr/improves": 25.0}, action="stop")
    attached = run(tmp_path, gate)
    assert attached.global_step == 3
    assert attached.state.status == "finished"
    assert gate.verdict == "exceeded"


def test_warning_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        assert run(tmp_path, LeakageGate({"audit/psnr/improves": 25.0})).global_step == 6
    assert len([r for r in caplog.records if "leakage limit exceeded" in r.message]) == 4


def test_a_number_that_falls_again_starts_the_count_anew(tmp_path):
    class Alternates(Improves):
        def reconstruct(self, seen, budget):
            self.calls += 1
            return Found(torch.full((1, *seen.input_shape), 0.5 + (0.01, 0.3)[self.calls % 2]), True, "", 0.0)

    gate = LeakageGate({"audit/psnr/improves": 25.0}, patience=2, action="fail")
    run(tmp_path, gate, audit=audited(attacks=[Alternates()]))
    assert gate.verdict == "passed"
    assert len(gate.violations) == 3


@pytest.mark.parametrize("name", ["audit/psnr/dlg", "audit/layer/9/deficiency", "val/loss"])
def test_a_limit_on_what_is_never_logged_is_refused_at_the_start(tmp_path, name):
    message = rf"nothing named '{name}' is logged; there are audit/c, .*audit/layer/0/condition.*audit/ssim/improves"
    with pytest.raises(MisconfigurationException, match=message):
        run(tmp_path, LeakageGate({name: 1.0}))


def test_a_gate_without_an_audit_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="add one to the callbacks"):
        fit(tmp_path, LeakageGate({"audit/c": 0.0}))


def test_a_number_that_was_never_measured_fails_the_gate(tmp_path):
    audit = audited(unpack=lambda batch: batch["nothing"])
    with pytest.raises(LeakageLimitExceeded, match="limits on audit/c could not be judged"):
        run(tmp_path, LeakageGate({"audit/c": 0.0}, action="fail"), audit=audit)
    assert record(tmp_path)["verdict"] == "unjudged"


def test_the_verdict_is_in_the_log_and_in_the_checkpoint(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    gate = LeakageGate({"audit/psnr/improves": 45.0}, patience=2)
    attached = run(tmp_path, gate, logger=logger, max_steps=5)
    attached.save_checkpoint(tmp_path / "last.ckpt")
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    assert [event.value for event in events.Scalars("audit/violations")] == [0, 0, 0, 0, 1]
    text = events.Tensors("audit/verdict/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "**passed**" in text
    assert "| audit/psnr/improves | 45 | 50 |" in text
    assert states[gate.state_key]["verdict"] == "passed"
    assert states[gate.state_key]["violations"] == gate.violations


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_resumed_fit_goes_on_counting(tmp_path):
    attack = Improves()
    gate = LeakageGate({"audit/psnr/improves": 45.0}, patience=2)
    attached = run(tmp_path, gate, max_steps=5, audit=audited(attacks=[attack]))
    attached.save_checkpoint(tmp_path / "last.ckpt")
    resumed = LeakageGate({"audit/psnr/improves": 45.0}, patience=2)
    run(tmp_path, resumed, max_steps=6, audit=audited(attacks=[attack]), ckpt_path=tmp_path / "last.ckpt")
    assert (gate.verdict, resumed.verdict) == ("passed", "exceeded")
    assert [v["step"] for v in resumed.violations] == [4, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": {}}, "at least one number"),
        ({"limits": {"audit/c": float("nan")}}, "must be a number, got nan"),
        ({"limits": {"audit/c": "low"}}, "must be a number, got 'low'"),
        ({"limits": {"audit/c": 0.0}, "patience": 0}, "patience must be at least 1"),
        ({"limits": {"audit/c": 0.0}, "action": "exit"}, "action must be one of warn, stop, fail"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        LeakageGate(**settings)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_mistake_is_told_in_the_exception_of_the_trainers_own_package(package, tmp_path):
    own = pytest.importorskip(f"{package}.utilities.exceptions").MisconfigurationException
    trainer = importlib.import_module(package).Trainer(
        accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False
    )
    with pytest.raises(own, match="add one to the callbacks"):
        LeakageGate({"audit/psnr/*": 25.0}).on_fit_start(trainer, torch.nn.Identity())
