import json

import lightning as L
import pytest
import torch
from fits import Grey, fit, images

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.evaluation.baseline import BaselineImage
from leakage_audit.data import Synthetic
from leakage_audit.models import Variant
from leakage_audit.scores.metrics import chance_floor


class Trainer:
    def __init__(self, datamodule=None):
        self.datamodule, self.train_dataloader = datamodule, None


class Data:
    asked = 0  # of the class: it is a copy that is asked

    def __init__(self, answer):
        self.answer = answer

    def mean_image(self):
        type(self).asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_datamodules_mean_image_is_asked_for_once():
    data, guess = Data(torch.full((3, 8, 8), 0.3)), BaselineImage()
    before = Data.asked
    for _ in range(3):
        assert torch.equal(guess(Trainer(data), torch.Size((3, 8, 8))), data.answer)
    assert Data.asked == before + 1
    assert guess.about == "the mean image of the data"


@pytest.mark.parametrize(
    "data",
    [
        None,
        object(),
        Data(RuntimeError("no disk")),
        Data(torch.zeros(1, 8, 8)),
        Data(torch.full((3, 8, 8), 90.0)),
        Data(7),
    ],
)
def test_without_one_that_fits_the_guess_is_mid_grey(data):
    guess = BaselineImage()
    assert guess(Trainer(data), torch.Size((3, 8, 8))) is None
    assert guess.about == "mid-grey"


def test_an_audit_holds_reconstructions_against_it(tmp_path):
    data = Synthetic(train_images=40, test_images=10, batch_size=4, image_size=8)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[LeakageAudit(attacks=[Grey()], limit=0, samples=1)],
    )
    trainer.fit(Variant("cnn2_v1", image_size=8), data)
    record = json.loads(next(tmp_path.rglob("audit.jsonl")).read_text())
    assert record["chance"] == "the mean image of the data"
    floors = [chance_floor(data.mean_image(), data.image_at(i).image).psnr[0] for i in range(40)]
    assert any(record["samples"][0]["floor"]["psnr"] == pytest.approx([floor], abs=1e-3) for floor in floors)
    fit(tmp_path / "plain", LeakageAudit(attacks=[Grey()], limit=0), data=images(), max_steps=1)
    assert json.loads(next((tmp_path / "plain").rglob("audit.jsonl")).read_text())["chance"] == "mid-grey"
