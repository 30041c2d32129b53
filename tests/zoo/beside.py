"""What a training step reaches that is no part of the module: globals, class attributes, closures, the data module."""

from collections import UserDict
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanMetric

from zoo.case import Case
from zoo.data import loader, raw
from zoo.parts import Classifier


class Running(nn.Module):
    """A criterion that keeps an average and counts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(()))
        self.calls = 0

    def forward(self, scores, y):
        loss = F.cross_entropy(scores, y)
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        self.calls += 1
        return loss


class Tracker:
    """In the manner of experiment trackers: each call is a row."""

    def __init__(self):
        self.rows = []

    def __call__(self, scores, y):
        self.rows.append(len(scores))
        return F.cross_entropy(scores, y)


criterion, history, steps = Running(), [], 0
tracker, mean = Tracker(), MeanMetric()


class Globals(Classifier):
    """Criterion, metric, list and counter at the top of the script, as in notebooks."""

    def __init__(self):
        super().__init__()
        global criterion, history, steps, mean
        criterion, history, steps, mean = Running(), [], 0, MeanMetric()

    def training_step(self, batch, batch_idx):
        global steps
        loss = criterion(self(batch[0]), batch[1])
        history.append(loss.item())
        mean.update(loss.detach())
        steps += 1
        return loss

    def beside(self):
        return [criterion, history, steps, mean]


def note(loss):
    history.append(loss.item())


class Helper(Globals):
    """A function at the top of the script that keeps what it is told."""

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        note(loss)
        return loss


class OfTheClass(Classifier):
    """Losses and a counter that belong to the class, not to the object."""

    losses, calls = [], 0

    def __init__(self):
        super().__init__()
        type(self).losses, type(self).calls = [], 0

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        type(self).calls += 1
        return loss

    def beside(self):
        return [type(self).losses, type(self).calls]


class Closure(Classifier):
    """A function made in `__init__`, which holds the criterion."""

    def __init__(self):
        super().__init__()
        held = Running()
        self.compute = lambda scores, y: held(scores, y)
        self.beside = lambda: held

    def training_step(self, batch, batch_idx):
        return self.compute(self(batch[0]), batch[1])


class Given(Classifier):
    """A loss of the script's that counts, given to the audit."""

    def __init__(self):
        super().__init__()
        tracker.rows.clear()

    def training_step(self, batch, batch_idx):
        return tracker(self(batch[0]), batch[1])

    def beside(self):
        return tracker.rows


class Curriculum(Classifier):
    """Tells the data module how far it is."""

    def training_step(self, batch, batch_idx):
        self.trainer.datamodule.seen += len(batch[0])
        self.trainer.datamodule.batches.append(batch_idx)
        return F.cross_entropy(self(batch[0]), batch[1])


class Counting(L.LightningDataModule):
    """Keeps count; its mean goes through a loader with a generator of its own, its deviation is not there yet."""

    def __init__(self):
        super().__init__()
        self.seen, self.batches, self.asked = 0, [], 0
        self.generator = torch.Generator().manual_seed(1)

    def train_dataloader(self):
        return loader(*raw(), generator=self.generator)

    def mean(self):
        self.asked += 1
        return torch.cat([x for x, _ in self.train_dataloader()]).mean((0, 2, 3))

    @property
    def std(self):
        raise RuntimeError("call setup first")


@dataclass
class Batch:
    image: torch.Tensor
    label: torch.Tensor


class WritesItems(Classifier):
    """Normalises in place, and counts in an array, in a batch of the Hugging Face's kind."""

    def training_step(self, batch, batch_idx):
        batch["image"].sub_(0.5).div_(0.25)
        batch["counts"] += 1
        return F.cross_entropy(self(batch["image"]), batch["label"])


class WritesFields(Classifier):
    """The same in a batch that is a dataclass."""

    def training_step(self, batch, batch_idx):
        batch.image.sub_(0.5).div_(0.25)
        return F.cross_entropy(self(batch.image), batch.label)


def _batches(make):
    def collate(items):
        images, labels = zip(*items, strict=True)
        return make(torch.stack(images), torch.stack(labels))

    return lambda: loader(*raw(), collate_fn=collate)


CASES = [
    Case("globals of the script", Globals),
    Case("a helper that keeps", Helper),
    Case("attributes of the class", OfTheClass),
    Case("criterion in a closure", Closure),
    Case("a loss that counts, given", Given, audit={"loss": tracker}),
    Case("data module told and asked", Curriculum, Counting, warns="std raises RuntimeError: call setup first"),
    Case(
        "in place in a UserDict",
        WritesItems,
        _batches(lambda x, y: UserDict(image=x, label=y, counts=np.zeros(3))),
        warns="images span",
    ),
    Case("in place in a dataclass", WritesFields, _batches(Batch), warns="images span"),
]
