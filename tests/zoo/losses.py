"""Losses with a state, with weights, with terms of their own."""

import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.parts import Classifier


class Criterion(Classifier):
    """Trains with an attribute called criterion."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x), y)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, scores, labels):
        self.calls += 1
        return F.cross_entropy(scores, labels)


class Running(nn.Module):
    """Weighs classes by how often it has met them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequency", torch.ones(5) / 5)

    def forward(self, scores, labels):
        with torch.no_grad():
            now = F.one_hot(labels, 5).float().mean(0)
            self.frequency.mul_(0.9).add_(now, alpha=0.1)
        return (F.cross_entropy(scores, labels, reduction="none") / self.frequency[labels].sqrt()).mean()


class WarmUp:
    """Not a module: a loss whose smoothing fades with a plain counter."""

    def __init__(self):
        self.calls = 0

    def __call__(self, scores, labels):
        self.calls += 1
        return F.cross_entropy(scores, labels, label_smoothing=0.2 / self.calls)


class Focal(nn.Module):
    def __init__(self, gamma=2.0, alpha=None):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, inputs, targets):
        ce = F.cross_entropy(inputs, targets, reduction="none", weight=self.alpha)
        return ((1 - torch.exp(-ce)) ** self.gamma * ce).mean()


class Smoothed(Classifier):
    """Label smoothing where nobody sees it."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y, label_smoothing=0.1)


class Penalised(Classifier):
    """A penalty on the weights beside the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y) + 0.1 * sum(p.square().sum() for p in self.parameters())


class Halved(Classifier):
    def training_step(self, batch, batch_idx):
        return 0.5 * super().training_step(batch, batch_idx)


class Tempered(Classifier):
    """Divides the scores by a temperature in the step, not in forward."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x) / 0.5, y)


def tempered(scores, labels):
    return F.cross_entropy(scores / 0.5, labels)


_TERMS = r"differs from the recomputed gradient.*`loss`"


class SmoothingCrossEntropy(nn.Module):
    def forward(self, x, target):
        logs = x.log_softmax(-1)
        return -(0.9 * logs.gather(1, target[:, None])[:, 0] + 0.1 * logs.mean(1)).mean()


class TimmsCriterion(Classifier):
    """timm's label smoothing, which calls no loss of torch's, under a short name."""

    def __init__(self):
        super().__init__()
        self.train_fn = SmoothingCrossEntropy()

    def training_step(self, batch, batch_idx):
        return self.train_fn(self(batch[0]), batch[1])


class WritesToTheExperiment(Classifier):
    """Writes to the logger's experiment before there is a loss, and smooths labels inline."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.logger.experiment.add_scalar("images", len(x), self.global_step)
        self.logger.log_metrics({"rate": self.optimizers().param_groups[0]["lr"]})
        return F.cross_entropy(self(x), y, label_smoothing=0.1)


CASES = [
    Case("timm's label smoothing", TimmsCriterion),
    Case("logger's experiment", WritesToTheExperiment, trainer={"logger": True}),
    Case("criterion that counts", lambda: Criterion(Counting())),
    Case("criterion with a running buffer", lambda: Criterion(Running()), alone=False),
    Case("criterion with a plain counter", lambda: Criterion(WarmUp()), alone=False),
    Case("focal loss", lambda: Criterion(Focal())),
    Case("class weights", lambda: Criterion(nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0))), alone=False),
    Case("summed loss", lambda: Criterion(nn.CrossEntropyLoss(reduction="sum")), alone=False),
    Case("label smoothing, criterion", lambda: Criterion(nn.CrossEntropyLoss(label_smoothing=0.1))),
    Case("label smoothing, inline", Smoothed),
    Case("penalty, inline", Penalised, refused=_TERMS),
    Case("loss halved", Halved, scale=0.5, warns="0.5 times"),
    Case("temperature in the step", Tempered, refused=_TERMS, cure={"loss": tempered}),
]
