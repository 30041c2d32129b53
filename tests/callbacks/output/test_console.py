import pytest
from fits import Grey, Sleeps, fit
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.output import console
from leakage_audit.callbacks.settings import AuditOptions


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_the_progress_bar_keeps_the_last_audits_result(tmp_path, bar):
    attached, _ = fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()]), bar(), enable_progress_bar=True)
    shown = attached.progress_bar_callback.get_metrics(attached, attached.lightning_module)
    decibels, unit, word = shown["PSNR"].split()
    assert float(decibels) == pytest.approx(attached.callback_metrics["audit/psnr/grey"].item(), abs=0.06)
    assert (unit, word) == ("dB", "unrecognisable")
    assert float(shown["c(M)"]) == pytest.approx(attached.callback_metrics["audit/c"].item(), rel=1e-5)


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_a_table_and_the_reports_place_at_the_end(tmp_path, bar, capsys):
    fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()]), bar(), enable_progress_bar=True)
    said = capsys.readouterr().out
    assert "Nothing recognisable came back." in said
    assert "grey" in said
    assert "unrecognisable" in said
    assert "report.html" in said.replace("\n", "")


def test_a_silent_fit_stays_silent(tmp_path, capsys):
    fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()]))
    assert capsys.readouterr().out == ""


class TestProgress:
    def audited(self, tmp_path, bar, after):
        options = AuditOptions(announced_after=after)
        audit = LeakageAudit(every_n_steps=9, attacks=[Sleeps()], samples=1, max_seconds=2.0, options=options)
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
