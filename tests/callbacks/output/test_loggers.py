import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from PIL import Image

from leakage_audit.callbacks.output.loggers import Display, log_image, log_scalars, log_text, register
from leakage_audit.callbacks.output.loggers.display import DISPLAYS

IMAGE = torch.arange(72, dtype=torch.uint8).reshape(3, 4, 6)


def pixels(path):
    return torch.tensor(list(Image.open(path).get_flattened_data())).reshape(4, 6, 3).permute(2, 0, 1)


@pytest.mark.filterwarnings("ignore")  # the package's own deprecations
def test_weights_and_biases_gets_pictures_text_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    trainer = SimpleNamespace(loggers=[logger, CSVLogger(tmp_path)])
    log_scalars(trainer, {"audit/psnr/joint": 31.5}, 7)
    log_image(trainer, "audit/images", IMAGE, 7, "step 7", tmp_path)
    log_text(trainer, "audit/summary", "**text**", 7)
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert summary["audit/psnr/joint"] == 31.5
    assert summary["audit/images"]["captions"] == ["step 7"]
    (picture,) = Path(tmp_path).rglob("media/images/**/*.png")
    assert torch.equal(pixels(picture), IMAGE)
    (table,) = Path(tmp_path).rglob("media/table/**/*.json")
    assert json.loads(table.read_text())["data"] == [["**text**"]]
    assert not list((tmp_path / "images").glob("*.png"))


@pytest.mark.filterwarnings("ignore")  # the package's own deprecations
def test_mlflow_gets_pictures_and_text_as_artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("audits", tracking_uri=f"file:{tmp_path}/mlruns")
    trainer = SimpleNamespace(loggers=[logger])
    log_scalars(trainer, {"audit/psnr/joint": 31.5}, 7)
    log_image(trainer, "audit/images", IMAGE, 7, "step 7", tmp_path)
    log_text(trainer, "audit/summary", "**text**", 7)
    (picture,) = tmp_path.rglob("audit/images/step_000007.png")
    assert torch.equal(pixels(picture), IMAGE)
    (text,) = tmp_path.rglob("audit/summary/step_000007.md")
    assert text.read_text() == "**text**"
    (point,) = logger.experiment.get_metric_history(logger.run_id, "audit/psnr/joint")
    assert (point.value, point.step) == (31.5, 7)


def test_a_logger_from_outside_takes_pictures_once_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr("leakage_audit.callbacks.output.loggers.display.DISPLAYS", dict(DISPLAYS))
    taken = []

    class Elsewhere(CSVLogger):
        pass

    @register("Elsewhere")
    class Shown(Display):
        def image(self, name, image, step, caption):
            taken.append((name, image.shape, step, caption))
            return True

    log_image(SimpleNamespace(loggers=[Elsewhere(tmp_path)]), "audit/images", IMAGE, 7, "step 7", tmp_path)
    assert taken == [("audit/images", (3, 4, 6), 7, "step 7")]
    assert not list(tmp_path.rglob("*.png"))


def test_without_a_logger_for_pictures_a_file_is_written(tmp_path):
    trainer = SimpleNamespace(loggers=[CSVLogger(tmp_path)])
    log_image(trainer, "audit/images", IMAGE, 12, "", tmp_path)
    assert (tmp_path / "images" / "step_000012.png").is_file()


def test_nothing_is_written_where_nothing_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log_image(SimpleNamespace(loggers=[]), "audit/images", IMAGE, 0, "", None)
    assert not list(tmp_path.rglob("*"))
