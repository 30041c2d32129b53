"""Modules whose gradients are hard to compute again, and a callback that has their steps read."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.rng_isolation import isolated
from leakage_audit.callbacks.capture.step_reader import StepReader


class Net(L.LightningModule):
    """A classifier with everything that makes a gradient hard to compute again."""

    manual_window = 0

    def __init__(self, scale=1.0, smoothing=0.0, lr=0.1, fused=False):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 36, 5)
        )
        self.scale, self.smoothing, self.lr, self.fused = scale, smoothing, lr, fused

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.scale * F.cross_entropy(self(x), y, label_smoothing=self.smoothing)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=0.1, fused=self.fused)


class Tempered(Net):
    """Trains a parameter that is not part of `net`."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.net(x) * self.temperature


class Manual(Net):
    """Two batches a step, summed, clipped or not, two optimisers."""

    clip = None
    divide = 1

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        x, y = batch
        self.manual_backward(F.cross_entropy(self(x), y) / self.divide)
        if batch_idx % 2:
            if self.clip:
                self.clip_gradients(first, gradient_clip_val=self.clip)
            first.step()
            second.step()
            first.zero_grad()
            second.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.Adam(self.net[5].parameters(), 0.1)]


class Reads(Callback):
    """Reads every step of one optimiser, and hands over what it read."""

    def __init__(self, optimizer=0, **kwargs):
        self.optimizer, self.kwargs = optimizer, kwargs
        self.verdicts, self.problems, self.window, self.samples_captured = [], [], [], []

    def on_fit_start(self, trainer, pl_module):
        self.reader = StepReader(**self.kwargs)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with isolated():
            if not self.window:
                self.reader.begin(pl_module, trainer)
            self.window.append(self.reader.micro_batch(batch, batch_idx))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if optimizer is not trainer.optimizers[self.optimizer]:
            return
        try:
            with isolated():
                read = self.reader.read(trainer, pl_module, optimizer, self.window)
                self.verdicts.append(read.check)
                x, labels = self.reader.pairs(trainer, pl_module, self.window)[0]
                self.sample = self.reader.sample(trainer, pl_module, x[0], labels[0])
                self.samples_captured.append(self.reader.whole(trainer, pl_module, read.gradients)[0])
        except AuditSkipped as error:
            self.problems.append(str(error))
        self.window.clear()
        self.reader.forget()


def data(n=24, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, 8, 8, generator=generator).to(dtype)
    return DataLoader(TensorDataset(images, torch.arange(n) % 5), batch_size=4)


def fit(module, reads, **kwargs):
    loader = kwargs.pop("loader", data())
    torch.manual_seed(3)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        callbacks=[reads],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )
    trainer.fit(module, loader)
    return trainer
