"""Attributes that are called like a loss: methods, properties, tensors, and losses that are called otherwise."""

import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.parts import Classifier


class Method(Classifier):
    """A method that logs, and a schedule that listens to it."""

    def loss(self, scores, y):
        loss = F.cross_entropy(scores, y)
        self.log("train/ce", loss)
        return loss

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "train/ce", "interval": "step", "strict": False},
        }


class MethodWithMetric(Classifier):
    """A method that keeps what it computed."""

    def __init__(self):
        super().__init__()
        self.history = []

    def loss_fn(self, logits, target):
        loss = F.cross_entropy(logits, target)
        self.history.append(loss.item())
        return loss

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss_fn(self(x), y)


class Raising(Classifier):
    """A property that is not there before the first step."""

    @property
    def loss(self):
        raise RuntimeError("the loss is known after the first step only")


class Moving(Classifier):
    """A property that makes something new whenever it is asked, at random."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    @property
    def criterion(self):
        self.asked += 1
        torch.rand(())
        return nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x), y)


class Kept(Classifier):
    """Keeps its last loss, graph and all."""

    loss = None

    def training_step(self, batch, batch_idx):
        self.loss = super().training_step(batch, batch_idx)
        return self.loss


class Functional(Classifier):
    def __init__(self):
        super().__init__()
        self.loss_function = F.cross_entropy

    def training_step(self, batch, batch_idx):
        return self.loss_function(self(batch[0]), batch[1])


class OtherName(Classifier):
    """A loss under a name that nobody foresees."""

    def __init__(self):
        super().__init__()
        self.ce = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch, batch_idx):
        return self.ce(self(batch[0]), batch[1])


class Several(Classifier):
    """Losses in a dict, of which the step takes one."""

    def __init__(self):
        super().__init__()
        self.losses = nn.ModuleDict({"mm": nn.MultiMarginLoss(), "ce": nn.CrossEntropyLoss()})

    def training_step(self, batch, batch_idx):
        return self.losses["mm"](self(batch[0]), batch[1])


class Decoy(Classifier):
    """An attribute called loss that is something else."""

    def __init__(self):
        super().__init__()
        self.loss = nn.KLDivLoss(reduction="batchmean")
        self.criterion = "cross_entropy"


CASES = [
    Case("loss method that logs", Method),
    Case("loss method that keeps", MethodWithMetric),
    Case("loss property that raises", Raising),
    Case("criterion property that moves", Moving),
    Case("last loss kept with its graph", Kept),
    Case("functional loss", Functional),
    Case("loss under another name", OtherName),
    Case("losses in a ModuleDict", Several),
    Case("loss attribute that is none", Decoy),
]
