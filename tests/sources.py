"""The three sources of images at a size for tests, and a stand-in for torchvision's CIFAR-10."""

import numpy as np
from PIL import Image

from leakage_audit.data import CIFAR10, ImageFolder, Synthetic
from leakage_audit.data.synthetic import SCENES

KINDS = ("synthetic", "folder", "cifar10")


def save(path, value=0, mode="RGB", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def colour(index):
    return (index, 2 * index, 255 - index)


def batches(loader):
    return [(x.clone(), y.tolist()) for x, y in loader]


class SmallCIFAR10:
    """The attributes of torchvision's CIFAR10 on 30 training and 10 test images; image i is of class 7 i modulo 10."""

    def __init__(self, root, train=True, download=False):
        count = 30 if train else 10
        self.data = np.random.default_rng(int(train)).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [(7 * i) % 10 for i in range(count)]


def make(kind, tmp_path, **settings):
    """30 training images of ten classes."""
    if kind == "synthetic":
        return Synthetic(train_images=30, test_images=12, **settings)
    if kind == "folder":
        for index in range(30):
            save(tmp_path / "train" / tuple(SCENES)[index % 10] / f"{index}.png", colour(index))
        return ImageFolder(str(tmp_path), **settings)
    return CIFAR10(str(tmp_path), **settings)
