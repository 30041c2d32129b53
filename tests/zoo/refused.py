"""Trainings that are no classification of single images, or hide a part of it: refused with a reason and a setting."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.data import CLASSES, loader, masks, raw
from zoo.parts import Classifier, small

DIFFERS = r"differs from the recomputed gradient.*`(loss|unpack|forward)`"


class Mixup(Classifier):
    """Mixes images in the step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        lam, order = 0.7, torch.randperm(len(x))
        scores = self(lam * x + (1 - lam) * x[order])
        return lam * F.cross_entropy(scores, y) + (1 - lam) * F.cross_entropy(scores, y[order])


class Augments(Classifier):
    """Flips in the step."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x.flip(-1)), y)


class Parts(L.LightningModule):
    """No forward and two networks."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten()), nn.Linear(216, 5)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(self.encoder(x)), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class MultiTask(Classifier):
    """Two heads, two targets."""

    def __init__(self):
        super().__init__(small()[:3])
        self.kind, self.parity = nn.Linear(216, 5), nn.Linear(216, 2)

    def forward(self, x):
        features = self.net(x)
        return {"kind": self.kind(features), "parity": self.parity(features)}

    def training_step(self, batch, batch_idx):
        x, kind, parity = batch
        out = self(x)
        return F.cross_entropy(out["kind"], kind) + F.cross_entropy(out["parity"], parity)


class Distilled(Classifier):
    """Learns from a frozen teacher too."""

    def __init__(self):
        super().__init__()
        self.teacher = small().requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        with torch.no_grad():
            wanted = self.teacher(x).softmax(1)
        return F.cross_entropy(scores, y) + F.kl_div(scores.log_softmax(1), wanted, reduction="batchmean")


class Segments(Classifier):
    """A class for every pixel."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, CLASSES, 1)))


class Autoencoder(Classifier):
    """Gives images back; there are labels, but it does not use them."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 3, padding=1)))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self(x), x)


class Denoiser(Autoencoder):
    """Learns the noise; images come alone."""

    def training_step(self, batch, batch_idx):
        (x,) = batch
        noise = torch.randn_like(x)
        return F.mse_loss(self(x + noise), noise)


class Restores(Autoencoder):
    """From image to image, as super-resolution does."""

    def training_step(self, batch, batch_idx):
        degraded, clean = batch
        return F.l1_loss(self(degraded), clean)


class Tabular(Classifier):
    """Rows of numbers, no images."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)))


class Video(Classifier):
    """Clips of shape (B, C, T, H, W)."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv3d(3, 4, (2, 3, 3)), nn.Flatten(), nn.Linear(4 * 36, 5)))


def whole(core, x):
    return core.head(core.encoder(x))


def flipped(batch):
    return batch[0].flip(-1), batch[1]


def two_targets():
    images, labels = raw()
    return loader(images, labels, labels % 2)


def table():
    images, labels = raw()
    return loader(images.flatten(1)[:, :6].contiguous(), labels)


def clips():
    images, labels = raw()
    return loader(torch.stack([images, images.flip(-1)], 2), labels)


_IMAGES = r"(returns|image to image|no class scores).*`(forward|loss)`"
CASES = [
    Case("mixup in the step", Mixup, refused=DIFFERS, alone=False),
    Case("augmentation in the step", Augments, refused=DIFFERS, cure={"unpack": flipped}),
    Case("two parts without forward", Parts, refused="no forward.*encoder, head.*`forward`", cure={"forward": whole}),
    Case("multi-task", MultiTask, two_targets, refused=r"(outside|differs|several).*`(loss|forward)`"),
    Case("distillation", Distilled, refused=DIFFERS),
    Case("segmentation", Segments, masks, refused=r"(no integer labels|each pixel|segment).*`(unpack|loss|forward)`"),
    Case("autoencoder with labels", Autoencoder, refused=_IMAGES),
    Case("denoiser without labels", Denoiser, lambda: loader(raw()[0]), refused=r"labels.*`unpack`"),
    Case("image to image", Restores, lambda: loader(raw()[0], raw()[0]), refused=r"labels.*`unpack`"),
    Case("table", Tabular, table, refused=r"no floating-point images.*`unpack`"),
    Case("video", Video, clips, refused=r"no floating-point images.*`unpack`"),
]
