"""Several audits, several trainers, several runs: states, names and files stay apart."""

import logging

import pytest
from fits import Grey, fit, lines

from leakage_audit.callbacks import LeakageAudit, LeakageGate


@pytest.mark.parametrize(
    "settings", [{"gradient": "step"}, {"optimizer": 1}, {"grant_labels": True}, {"samples": 3}, {"seed": 1}]
)
def test_two_audits_keep_their_states_apart(settings):
    one, other = LeakageAudit(attacks=[Grey()], limit=0), LeakageAudit(attacks=[Grey()], limit=0, **settings)
    assert one.state_key != other.state_key


def test_the_same_callback_counts_anew_in_another_trainer(tmp_path):
    audit = LeakageAudit(every_n_steps=4, attacks=[Grey()], limit=0)
    for name in ("one", "other"):
        fit(tmp_path / name, audit)
        assert [line["optimizer_step"] for line in lines(tmp_path / name)] == [0, 4]


def test_without_a_logger_each_run_has_a_folder_of_its_own(tmp_path):
    for run in range(2):
        fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()], limit=0))
        assert (tmp_path / f"leakage_audit/run_{run}/audit.jsonl").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["leakage_audit"]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_corrupt_probe_is_no_reason_to_end_a_resumed_fit(tmp_path, caplog):
    settings = {"every_n_steps": 4, "attacks": [Grey()]}
    attached, _ = fit(tmp_path / "a", LeakageAudit(**settings), max_steps=6)
    attached.save_checkpoint(tmp_path / "last.ckpt")
    (probe,) = tmp_path.rglob("probe_0.pt")
    assert not list(tmp_path.rglob("*.tmp"))
    probe.write_bytes(probe.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        fit(tmp_path / "b", LeakageAudit(**settings), max_steps=14, ckpt_path=tmp_path / "last.ckpt")
    assert [line.get("skipped") for line in lines(tmp_path / "b")] == [None, None]
    assert len([r for r in caplog.records if "cannot be read" in r.message]) == 1


def test_several_audits_in_one_trainer_log_under_names_of_their_own(tmp_path):
    sample, step = LeakageAudit(attacks=[Grey()], limit=0), LeakageAudit(attacks=[Grey()], limit=0, gradient="step")
    more = LeakageAudit(attacks=[Grey()], limit=0, seed=3)
    attached, module = fit(tmp_path, sample, step, more, max_steps=2)
    assert {"audit/psnr/grey", "audit_step/psnr/grey", "audit_3/psnr/grey"} <= set(attached.callback_metrics)
    assert more.latest.skipped is step.latest.skipped is None
    for audit in (sample, step, more):
        assert set(audit.latest.metrics) <= set(attached.callback_metrics)
        assert set(audit.latest.metrics) <= set(audit.names(module))


def test_a_second_trainer_begins_to_count_anew(tmp_path):
    """The gate goes on judging, too."""
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], limit=0)
    gate = LeakageGate({"audit/psnr/*": 0.0}, action="warn")
    for run in ("first", "second"):
        fit(tmp_path / run, audit, gate)
        assert audit.count == len(audit.recent)
        assert gate.verdict == "exceeded"
        gate.verdict, gate.violations = "", []
