"""Targets other than one integer an image, and their losses."""

import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.data import as_bytes, mixed_up, one_hot, several, soft, with_targets
from zoo.parts import Classifier, small


def even(labels):
    return (labels % 2 == 0).long()


class Binary(Classifier):
    """One score, squeezed in the step; integer targets."""

    def __init__(self):
        super().__init__(small(1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x).squeeze(1), y.float())


class BinaryCriterion(Binary):
    """The same with an object, and targets that get a dimension more."""

    def __init__(self):
        super().__init__()
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x), y.unsqueeze(1).float())


class BinaryFloat(Binary):
    """Targets that come as floating point numbers of shape (B, 1)."""

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])


class Probabilities(Classifier):
    """Ends in a sigmoid, as many beginners' networks."""

    def __init__(self):
        super().__init__(nn.Sequential(small(), nn.Sigmoid()))
        self.loss = nn.BCELoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)


class MultiLabel(Classifier):
    def __init__(self):
        super().__init__()
        self.criterion = nn.BCEWithLogitsLoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x), y)


class MultiLabelInline(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x), y)


class OneHot(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y.float())


class OneHotArgmax(Classifier):
    """Goes back to the classes itself."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y.argmax(1))


class Brier(Classifier):
    """Squared error against one-hot targets."""

    def __init__(self):
        super().__init__()
        self.loss_fn = nn.MSELoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss_fn(self(x).softmax(1), y)


class Columns(Classifier):
    """Labels of shape (B, 1), as in medical data sets."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y.squeeze(1).long())


class Bytes(Classifier):
    """Images as bytes, scaled in the step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x.float() / 255), y)


class Regression(Classifier):
    def __init__(self):
        super().__init__(small(1))
        self.criterion = nn.MSELoss()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.criterion(self(x).flatten(), y)


def brier(scores, targets):
    return F.mse_loss(scores.softmax(1), targets)


def from_bytes(batch):
    return batch[0].float() / 255, batch[1]


CASES = [
    Case("binary, integers", Binary, with_targets(even)),
    Case("binary, criterion with a weight", BinaryCriterion, with_targets(even)),
    Case("binary, floats (B, 1)", BinaryFloat, with_targets(lambda y: even(y)[:, None].float())),
    Case("multi-label, criterion", MultiLabel, with_targets(several)),
    Case("multi-label, inline", MultiLabelInline, with_targets(several)),
    Case("multi-label, probabilities", Probabilities, with_targets(several)),
    Case("one-hot integers", OneHot, with_targets(one_hot)),
    Case("one-hot integers, argmax", OneHotArgmax, with_targets(one_hot)),
    Case("one-hot floats", Classifier, with_targets(lambda y: one_hot(y).float())),
    Case("soft targets", Classifier, with_targets(soft)),
    Case("mixup by the loader", Classifier, mixed_up),
    Case(
        "squared error of probabilities",
        Brier,
        with_targets(lambda y: one_hot(y).float()),
        refused=r"differs from the recomputed gradient.*`loss`",
        cure={"loss": brier},
    ),
    Case("labels (B, 1)", Columns, with_targets(lambda y: y[:, None])),
    Case("labels as bytes", Columns, with_targets(lambda y: y[:, None].to(torch.uint8))),
    Case("images as bytes", Bytes, as_bytes, refused="no floating-point images.*`unpack`", cure={"unpack": from_bytes}),
    Case(
        "regression",
        Regression,
        with_targets(lambda y: y / 5),
        refused="(regression|not a class|labels).*`(unpack|loss)`",
    ),
]
