"""Sixteen small random images with whatever targets a module wants."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

COUNT, CLASSES, BATCH = 16, 5, 4


def raw(size=8, channels=3):
    """Images `(16, C, H, W)` in [0, 1] and their classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(COUNT, channels, size, size, generator=generator), torch.arange(COUNT) % CLASSES


def loader(*tensors, **kwargs):
    """A shuffled loader of tensors."""
    return DataLoader(TensorDataset(*tensors), **({"batch_size": BATCH, "shuffle": True} | kwargs))


def pictures():
    return loader(*raw())


def large():
    return loader(*raw(12))


def grey():
    return loader(*raw(channels=1))


def with_targets(make):
    """Data whose targets are a function of the classes `(16,)`."""

    def build():
        images, labels = raw()
        return loader(images, make(labels))

    return build


def one_hot(labels):
    return F.one_hot(labels, CLASSES)


def soft(labels):
    return 0.8 * one_hot(labels).float() + 0.2 * one_hot(labels.flip(0)).float()


def several(labels):
    return (one_hot(labels) | one_hot((labels + 2) % CLASSES)).float()


def as_dicts(image, label):
    """Data that come as a dict under these names."""

    def collate(items):
        images, labels = default_collate(items)
        return {image: images, label: labels}

    return lambda: loader(*raw(), collate_fn=collate)


def mixed_up():
    """Mixup by the loader, with one mixture a batch and soft targets."""

    def collate(items):
        images, labels = default_collate(items)
        targets = one_hot(labels).float()
        return 0.7 * images + 0.3 * images.flip(0), 0.7 * targets + 0.3 * targets.flip(0)

    return loader(*raw(), collate_fn=collate)


class Transformed(Dataset):
    """A data set in torchvision's manner, with a transform."""

    def __init__(self, transform):
        self.images, self.labels = raw()
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), int(self.labels[index])


def transformed(make):
    """Data under a transform that is made anew for each fit."""
    return lambda: DataLoader(Transformed(make()), batch_size=BATCH, shuffle=True)


class Slices(Dataset):
    """Hands out whole batches as views of its own memory, as data sets that live on the GPU do."""

    def __init__(self):
        self.images, self.labels = raw()

    def __len__(self):
        return COUNT // BATCH

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.images[rows], self.labels[rows]


def slices():
    return DataLoader(Slices(), batch_size=None)


def two_views():
    images, labels = raw()
    return loader(images, images.flip(-1), labels, collate_fn=_views)


def _views(items):
    one, two, labels = default_collate(items)
    return (one, two), labels


def masks():
    """Images with a class for each pixel."""
    images, _ = raw()
    return loader(images, (images.sum(1) * 1.5).long())


def as_bytes():
    images, labels = raw()
    return loader((images * 255).to(torch.uint8), labels)
