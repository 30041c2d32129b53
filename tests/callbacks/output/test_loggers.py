from types import SimpleNamespace

import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from leakage_audit.callbacks.output.loggers import log_image, log_text

IMAGE = torch.zeros(3, 4, 6, dtype=torch.uint8)


class Wandb(WandbLogger):
    """Weights & Biases as seen from here, without the package."""

    def __init__(self):
        self.calls = []

    def log_image(self, key, images, step=None, **kwargs):
        self.calls.append((key, [image.size for image in images], step, kwargs))

    def log_text(self, key, columns=None, data=None, dataframe=None, step=None):
        self.calls.append((key, columns, data, step))


def test_weights_and_biases_gets_pictures_and_text(tmp_path):
    logger = Wandb()
    trainer = SimpleNamespace(loggers=[logger, CSVLogger(tmp_path)])
    log_image(trainer, "audit/images", IMAGE, 7, "step 7", tmp_path)
    log_text(trainer, "audit/summary", "**text**", 7)
    assert logger.calls == [
        ("audit/images", [(6, 4)], 7, {"caption": ["step 7"]}),
        ("audit/summary", ["text"], [["**text**"]], 7),
    ]
    assert not list(tmp_path.rglob("*.png"))


def test_without_a_logger_for_pictures_a_file_is_written(tmp_path):
    trainer = SimpleNamespace(loggers=[CSVLogger(tmp_path)])
    log_image(trainer, "audit/images", IMAGE, 12, "", tmp_path)
    assert (tmp_path / "images" / "step_000012.png").is_file()


def test_nothing_is_written_where_nothing_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log_image(SimpleNamespace(loggers=[]), "audit/images", IMAGE, 0, "", None)
    assert not list(tmp_path.rglob("*"))
