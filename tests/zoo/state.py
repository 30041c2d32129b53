"""Modules that change as they train by more than their parameters."""

import copy

import torch
from torch import nn

from zoo.case import Case
from zoo.parts import Classifier


class AnnealedTemperature(Classifier):
    """A plain number that the step lowers after it has used it."""

    def __init__(self):
        super().__init__()
        self.temperature = 2.0

    def forward(self, x):
        return self.net(x) / self.temperature

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.temperature *= 0.8
        return loss


class ByEpoch(Classifier):
    """Forward asks which epoch it is."""

    def forward(self, x):
        return self.net(x) * (1 + self.current_epoch)


class ByProgress(Classifier):
    """Forward asks the trainer how far it is."""

    def forward(self, x):
        share = self.global_step / self.trainer.max_steps
        return self.net(x) * (0.5 + share)


class Centred(Classifier):
    """A running centre that forward subtracts and moves, as DINO's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(5))

    def forward(self, x):
        scores = torch.tanh(self.net(x))
        out = scores * (1 + self.centre)
        if self.training:
            with torch.no_grad():
                self.centre.mul_(0.5).add_(scores.mean(0), alpha=0.5)
        return out


class Counter(Classifier):
    """Counts its forward passes, and behaves differently each time."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.net(x) * (1 + 0.1 * self.passes)


class BatchNorm(Classifier):
    def __init__(self):
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5))
        )


class FrozenBatchNorm(BatchNorm):
    """Keeps its statistics still, as fine-tuning does."""

    def __init__(self):
        super().__init__()
        self.net[1].eval()

    def train(self, mode=True):
        super().train(mode)
        self.net[1].eval()
        return self


class Averaged(Classifier):
    """An exponential moving average of the network beside it."""

    def __init__(self):
        super().__init__()
        self.ema = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            for slow, fast in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


class Averaging(Classifier):
    """The same with torch's own class."""

    def __init__(self):
        super().__init__()
        self.averaged = torch.optim.swa_utils.AveragedModel(self.net)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.averaged.update_parameters(self.net)


class Curriculum(Classifier):
    """Plain attributes that are objects: a list of active classes, changed at the start of an epoch."""

    def __init__(self):
        super().__init__()
        self.weights = [1.0] * 5

    def on_train_epoch_start(self):
        self.weights[self.current_epoch] = 3.0

    def forward(self, x):
        return self.net(x) * torch.tensor(self.weights)


EPOCHS = {"max_epochs": 2, "max_steps": -1, "limit_train_batches": 2}
CASES = [
    Case("annealed temperature", AnnealedTemperature),
    Case("current_epoch in forward", ByEpoch, trainer=EPOCHS),
    Case("trainer in forward", ByProgress),
    Case("running centre", Centred, alone=False),
    Case("forward that counts", Counter, alone=False),
    Case("batch normalisation", BatchNorm, alone=False),
    Case("frozen batch normalisation", FrozenBatchNorm),
    Case("moving average, by hand", Averaged),
    Case("moving average, AveragedModel", Averaging),
    Case("curriculum in a list", Curriculum, trainer=EPOCHS),
]
