"""The commonest import of all: Lightning under its other name."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.case import Case
from zoo.data import BATCH, grey, raw


class LitAutoLabel(pl.LightningModule):
    """The first page of most tutorials."""

    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(8 * 8, 5)

    def forward(self, x):
        return torch.relu(self.l1(x.view(x.size(0), -1)))

    def training_step(self, batch, batch_nb):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class LitModel(pl.LightningModule):
    """Metrics, hyperparameters, a network by its name and no forward."""

    def __init__(self, hidden=6, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Conv2d(3, hidden, 3), nn.Tanh(), nn.Flatten(), nn.Linear(hidden * 36, 5))
        self.loss_fn = nn.CrossEntropyLoss()
        self.train_acc = torchmetrics.Accuracy(task="multiclass", num_classes=5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.model(x)
        loss = self.loss_fn(logits, y)
        self.train_acc(logits, y)
        self.log("train_acc", self.train_acc, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]


class LitManual(LitModel):
    """Optimises by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss_fn(self.model(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class LitData(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.mean, self.std = (0.0,), (1.0,)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*raw()), batch_size=BATCH, shuffle=True)


CASES = [
    Case("pytorch_lightning, first page", LitAutoLabel, grey),
    Case("pytorch_lightning, metrics", LitModel),
    Case("pytorch_lightning, data module", LitModel, LitData, normalised=((0.0,), (1.0,))),
    Case("pytorch_lightning, by hand", LitManual),
]
