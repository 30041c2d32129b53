import io
from types import SimpleNamespace

import pytest
from fits import Grey, Sleeps, fit
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.console import Console

from leakage_audit.callbacks import Audit, LeakageAudit
from leakage_audit.callbacks.output import console
from leakage_audit.callbacks.settings import AuditOptions
from leakage_audit.readings.reading import Status


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_the_progress_bar_keeps_the_last_audits_result(tmp_path, bar):
    attached, _ = fit(
        tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()], limit=0), bar(), enable_progress_bar=True
    )
    shown = attached.progress_bar_callback.get_metrics(attached, attached.lightning_module)
    decibels, unit = shown["unknown"].split()  # no limit was asked for, so nothing is known of better attacks
    assert float(decibels) == pytest.approx(attached.callback_metrics["audit/psnr/grey"].item(), abs=0.06)
    assert unit == "dB"
    assert len(set(Status) & set(shown)) == 1


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_a_table_and_the_reports_place_at_the_end(tmp_path, bar, capsys):
    fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()]), bar(), enable_progress_bar=True)
    said = capsys.readouterr().out
    assert "Nothing recognisable came back, but the gradient determines" in said
    assert "grey" in said
    assert "unrecognisable" in said
    assert "report.html" in said.replace("\n", "")


def test_a_silent_fit_stays_silent(tmp_path, capsys):
    fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()], limit=0))
    assert capsys.readouterr().out == ""


class TestProgress:
    def audited(self, tmp_path, bar, after):
        options = AuditOptions(announced_after=after)
        audit = LeakageAudit(every_n_steps=9, attacks=[Sleeps()], limit=0, samples=1, max_seconds=0.8, options=options)
        fit(tmp_path, audit, bar, enable_progress_bar=True, max_steps=1)

    @pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
    def test_a_long_audit_shows_how_far_it_is(self, tmp_path, bar, monkeypatch):
        told = []
        watched = console._AuditProgress.close
        monkeypatch.setattr(console._AuditProgress, "close", lambda self: (told.append(self._task), watched(self)))
        self.audited(tmp_path / "long", bar(), 0.2)
        self.audited(tmp_path / "short", bar(), 60.0)
        assert [task is not None for task in told] == [True, False]

    def test_it_says_which_attack_and_how_far(self, tmp_path, capfd):
        self.audited(tmp_path, TQDMProgressBar(), 0.2)
        said = capfd.readouterr()
        assert "audit: sleeping" in said.err + said.out


@pytest.mark.parametrize(
    ("audit", "entry"),
    [
        (Audit(1, 1, skipped="no labels"), {"unknown": "no result"}),
        (Audit(1, 1, status=Status.UNKNOWN, no_results={"a": (9.0, "out of time")}), {"unknown": "no result"}),
        (Audit(1, 1, status=Status.LEAKS, no_results={"a": (31.22, "out of time")}), {"leaks": "31.2 dB"}),
        (Audit(1, 1, status=Status.LEAKS, no_results={"a": (31.2, "")}, leaked=(5, 8)), {"leaks": "31.2 dB, 5/8"}),
        (Audit(1, 1, status=Status.LEAKS, no_results={"a": (31.2, "")}, leaked=(1, 1)), {"leaks": "31.2 dB"}),
        (Audit(1, 1, {"audit/psnr/a": 146.57}, status=Status.LEAKS, severities={"a": "exact"}), {"leaks": "exact"}),
    ],
)
def test_what_an_audit_found_does_not_stand_for_the_next(audit, entry):
    trainer = SimpleNamespace(progress_bar_metrics={"loss": 0.5, "protected": "9.0 dB"})
    console.show(trainer, audit)
    assert trainer.progress_bar_metrics == entry | {"loss": 0.5}
    assert next(iter(trainer.progress_bar_metrics)) in entry  # a narrow terminal cuts off what comes last


def test_the_table_has_a_row_for_what_came_to_no_result():
    unended = {"step": 0, "attacks": {}, "no_result": {"joint": "out of time"}}
    report = {
        "verdict": {"headline": "No attack came to a result", "gates": "none"},
        "attacks": [],
        "audits": [unended],
    }
    shown = Console(record=True, width=120, file=io.StringIO())
    shown.print(console.table(report))
    (row,) = [line for line in shown.export_text().splitlines() if "joint" in line]
    assert "no result" in row
    assert "out of time" in row
