import re

import pytest
from fits import Grey, Net, fit
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from leakage_audit.callbacks import LeakageAudit, OneLineProgressBar
from leakage_audit.cli.command_line import main

COLUMNS = 80


class Talkative(Net):
    """Puts its loss on the progress bar, as most modules do."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss_of_the_step", loss, prog_bar=True)
        return loss


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def shown(tmp_path, bar, capfd):
    """The terminal's lines up to the table, as the fit leaves them, without control sequences."""
    audit = LeakageAudit(every_n_steps=4, attacks=[Grey()], limit=0, report=False)
    fit(tmp_path, audit, bar, module=Talkative, enable_progress_bar=True, logger=True)
    said = "".join(capfd.readouterr())
    return [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)) if line.strip()]


def test_one_line_at_80_columns_with_every_number(tmp_path, narrow, capfd):
    lines = shown(tmp_path, OneLineProgressBar(), capfd)
    (last,) = [line for line in lines if "Epoch" in line]
    assert len(last) <= COLUMNS
    assert re.search(r"unknown: \d+\.\d dB train/loss", last)
    assert "v_num" not in last
    assert not [line for line in lines if "loss" in line and line is not last]


def test_lightning_s_own_takes_several(tmp_path, narrow, capfd):
    lines = shown(tmp_path, RichProgressBar(), capfd)
    assert len([line for line in lines if re.search("Epoch|loss|dB", line)]) > 1


def test_the_audit_s_entry_is_never_cut_off_in_a_line_of_tqdm(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (COLUMNS, 25))
    lines = [line for line in shown(tmp_path, TQDMProgressBar(), capfd) if "Epoch" in line]
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert re.search(r"v_num=0, unknown=\d+\.\d dB, ", lines[-1])


def test_a_wide_terminal_has_room_for_the_speed(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "140")
    (last,) = [line for line in shown(tmp_path, OneLineProgressBar(), capfd) if "Epoch" in line]
    assert "it/s" in last
    assert last.count("━") > 20


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ([], 1),
        (["--trainer.enable_progress_bar=false"], 0),
        (["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"], None),
    ],
)
def test_the_command_line_uses_it_unless_told_otherwise(options, lines, tmp_path, narrow, capfd):
    quick = ["--model.variant=cnn2_v2", "--data.train_images=40", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert main(["fit", *quick, *options, f"--trainer.default_root_dir={tmp_path}"]) == 0
    said = capfd.readouterr().out
    assert "━" in said if lines == 1 else "━" not in re.sub(r"[┏┃┡└].*", "", said)
    assert ("train/loss" in said) is (lines != 0)
