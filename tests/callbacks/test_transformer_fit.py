import json

import lightning as L
import torch
import torch.nn.functional as F
from fits import fit, lines
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchvision.models import VisionTransformer

from leakage_audit.callbacks import LeakageAudit


class Transformer(L.LightningModule):
    """A small vision transformer, as somebody would train it."""

    def __init__(self):
        super().__init__()
        self.net = VisionTransformer(8, 2, 1, 2, 24, 48, dropout=0.1, num_classes=5)
        nn.init.normal_(self.net.heads.head.weight, std=0.1)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


def test_a_transformer_in_training_is_seen_to_leak_all(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    fit(tmp_path, LeakageAudit(every_n_steps=2, samples=1, limit=0), module=Transformer, max_steps=4, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    psnr = [event.value for event in events.Scalars("audit/psnr/joint")]
    assert len(psnr) == 2
    assert min(psnr) > 60
    assert len(events.Images("audit/images")) == 2
    assert "gave its input away" in json.dumps(lines(tmp_path)[0])
