import json
import logging

import pytest
from fits import Grey, fit
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from leakage_audit.callbacks import LeakageAudit, LeakageGate, LeakageLimitExceeded

FILES = {"report.html", "report.json", "junit.xml"}


def report(folder):
    return json.loads(next(folder.rglob("report.json")).read_text())


def test_the_end_of_a_fit_writes_it(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0), logger=logger)
    assert {path.name for path in (tmp_path / "tb/version_0").iterdir()} >= FILES
    found = report(tmp_path)
    assert found["run"]["audits"] == 3
    assert len(found["curves"]["train/loss"]["steps"]) == 6
    assert [attack["name"] for attack in found["attacks"]] == ["grey"]
    assert (tmp_path / "tb/version_0/report.html").read_text().count("data:image/png") == 4


@pytest.mark.parametrize("first", ["audit", "gate"])
def test_a_fit_that_its_gate_fails_has_one_with_the_verdict(tmp_path, first):
    callbacks = [
        LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0),
        LeakageGate({"audit/psnr/*": 1.0}, action="fail"),
    ]
    with pytest.raises(LeakageLimitExceeded):
        fit(tmp_path, *(callbacks if first == "audit" else callbacks[::-1]))
    found = report(tmp_path)
    assert found["verdict"]["gates"] == "exceeded"
    assert found["gates"][0]["checks"][0]["state"] == "exceeded"
    assert "<failure" in next(tmp_path.rglob("junit.xml")).read_text()


def test_an_interrupted_fit_has_one_too(tmp_path):
    class Interrupts(LeakageAudit):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        fit(tmp_path, Interrupts(every_n_steps=2, attacks=[Grey()]))
    assert report(tmp_path)["run"]["audits"] == 2


def test_curves_of_one_logger_and_pictures_of_another(tmp_path):
    csv, tb = CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tb", version=7)
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0), logger=[csv, tb])
    found = report(tmp_path / "csv")
    assert "train/loss" in found["curves"]
    assert "data:image/png" in (tmp_path / "csv/version_0/report.html").read_text()


def test_none_where_none_is_wanted_or_nothing_is_written(tmp_path):
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0, report=False))
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0), fast_dev_run=True)
    assert not FILES & {path.name for path in tmp_path.iterdir()}


def test_one_that_cannot_be_written_does_not_end_the_fit(tmp_path, caplog):
    (tmp_path / "tb/version_0/report.html").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        logger = TensorBoardLogger(tmp_path, name="tb", version=0)
        attached, _ = fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0), logger=logger)
    assert attached.global_step == 6
    assert [r for r in caplog.records if "the leakage report could not be written: IsADirectoryError" in r.message]
