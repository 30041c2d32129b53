"""Normalisation in every place where public code puts it, and forwards that work on the batch's own memory."""

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import transforms as T
from torchvision.transforms import v2

from zoo.case import Case
from zoo.data import BATCH, Transformed, raw, slices, transformed
from zoo.parts import Classifier

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class InPlace(Classifier):
    """Normalises its input where it stands."""

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25))


class InPlaceNoise(Classifier):
    """Adds noise where the batch stands."""

    def forward(self, x):
        if self.training:
            x += 0.1 * torch.randn_like(x)
        return self.net(x)


class InPlaceStep(Classifier):
    """Normalises in the step, before forward, where the batch stands."""

    def training_step(self, batch, batch_idx):
        batch[0].sub_(0.5)
        return super().training_step(batch, batch_idx)


class Buffers(Classifier):
    """Normalises by buffers of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


class Transferred(Classifier):
    """Augments on the device, after the transfer."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x.flip(-1) if self.trainer.training else x), y


class Normalize(nn.Module):
    """Kornia's: mean and standard deviation in a dict of flags, not as attributes."""

    def __init__(self, mean, std):
        super().__init__()
        self.flags = {"mean": torch.tensor(mean), "std": torch.tensor(std)}

    def forward(self, x):
        return (x - self.flags["mean"].view(3, 1, 1)) / self.flags["std"].view(3, 1, 1)


class Data(L.LightningDataModule):
    """Normalised images from a data module that says so by its attributes."""

    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)

    def train_dataloader(self):
        images, labels = raw()
        images = T.Normalize(MEAN, STD)(images)
        return DataLoader(TensorDataset(images, labels), batch_size=BATCH, shuffle=True)


class WithMethods(Data):
    def mean(self):
        return list(MEAN)

    def std(self):
        return list(STD)


class WithMeanImage(L.LightningDataModule):
    """Its mean image goes once through the loader, whose generator moves."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(7)

    def train_dataloader(self):
        return DataLoader(TensorDataset(*raw()), batch_size=BATCH, shuffle=True, generator=self.generator)

    def mean_image(self):
        return torch.cat([images for images, _ in self.train_dataloader()]).mean(0)


def subset():
    data = Subset(Transformed(T.Compose([T.RandomHorizontalFlip(), T.Normalize(MEAN, STD)])), range(12))
    return DataLoader(data, batch_size=BATCH, shuffle=True)


def twice():
    return T.Compose([T.Normalize((0.5,) * 3, (0.5,) * 3), T.Normalize(MEAN, STD)])


def maybe():
    return v2.Compose([v2.RandomApply([v2.Normalize(MEAN, STD)], p=0.5)])


_FOUND = {"normalised": (MEAN, STD)}
_BOTH = (tuple(0.5 + 0.5 * m for m in MEAN), tuple(0.5 * s for s in STD))
CASES = [
    Case("in-place normalisation", InPlace, alone=False),
    Case("in-place normalisation of views", InPlace, slices, alone=False),
    Case("in-place noise on views", InPlaceNoise, slices, alone=False),
    Case("in-place normalisation in the step", InPlaceStep, alone=False),
    Case("normalisation by buffers", Buffers),
    Case("augmentation after the transfer", Transferred),
    Case("Normalize in a Subset", Classifier, subset, **_FOUND),
    Case(
        "Normalize of NumPy arrays",
        Classifier,
        transformed(lambda: T.Normalize(np.array(MEAN), np.array(STD))),
        **_FOUND,
    ),
    Case("Normalize of version 2", Classifier, transformed(lambda: v2.Compose([v2.Normalize(MEAN, STD)])), **_FOUND),
    Case("Kornia's Normalize", Classifier, transformed(lambda: Normalize(MEAN, STD)), **_FOUND),
    Case("two Normalizes", Classifier, transformed(twice), normalised=_BOTH),
    Case("Normalize by chance", Classifier, transformed(maybe), warns="`?mean`?.*`?std`?"),
    Case("data module, tuples", Classifier, lambda: Data(mean=MEAN, std=STD), **_FOUND),
    Case("data module, arrays", Classifier, lambda: Data(mean=np.array(MEAN), std=np.array(STD)), **_FOUND),
    Case("data module, tensors", Classifier, lambda: Data(mean=torch.tensor(MEAN), std=torch.tensor(STD)), **_FOUND),
    Case("data module, methods", Classifier, WithMethods, **_FOUND),
    Case(
        "data module, dicts",
        Classifier,
        lambda: Data(mean={"train": MEAN, "val": MEAN}, std={"train": STD, "val": STD}),
        warns="`?mean`?.*`?std`?",
    ),
    Case("mean image through the loader", Classifier, WithMeanImage),
]
