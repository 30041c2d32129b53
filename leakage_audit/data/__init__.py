"""Images to train on and to attack, as LightningDataModules: CIFAR-10, any image folder, or drawn from a seed."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.datasets.folder import IMG_EXTENSIONS

from leakage_audit.data.images import Images
from leakage_audit.data.pictures import Drawn, Files, Pictures, Stored
from leakage_audit.data.synthetic import SCENES, SMALLEST

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_INSTEAD = "without a network, use leakage_audit.data.Synthetic, which draws its images from a seed"


class Synthetic(Images):
    """Ten classes of natural-looking pictures, drawn from a seed: needs no download and no disk.

    Image i is of class i modulo the number of classes.

    Args:
        train_images: How many to train on, those held out for validation included.
        test_images: How many to test on; none of them is a training image.
        classes: Some of `leakage_audit.data.synthetic.SCENES`, labelled in this order; all ten by default.
        image_size: Height and width in pixels, at least 8.
        batch_size: Images in a batch.
        val_share: Share of the training images held out for validation; 0 validates on the test images.
        mean: Subtracted from the images in [0, 1]; one number, or one per channel.
        std: Divides the images; one number, or one per channel.
        num_workers: Processes that load images; 0 loads in the main one.
        seed: Chooses the pictures, the split and the order.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        train_images: int = 2000,
        test_images: int = 400,
        classes: list[str] | None = None,
        image_size: int = 32,
        batch_size: int = 32,
        val_share: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, image_size, batch_size, val_share, mean, std, num_workers, seed)
        if image_size < SMALLEST:
            raise ValueError(f"image_size must be at least {SMALLEST}, got {image_size}")
        _check_known(self._chosen, tuple(SCENES))
        for name, value in (("train_images", train_images), ("test_images", test_images)):
            if value < self.num_classes:
                raise ValueError(f"{name} must be at least one for each of {self.num_classes} classes, got {value}")
        self.train_images, self.test_images = train_images, test_images

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names in the order of their labels."""
        return self._chosen or tuple(SCENES)

    def _load(self, split: str) -> Pictures | None:
        everything = range(self.train_images + self.test_images)
        parts = {"train": everything[: self.train_images], "test": everything[self.train_images :]}
        return Drawn(self.classes, parts[split], self.image_size, self.seed) if split in parts else None


class CIFAR10(Images):
    """CIFAR-10 (Krizhevsky 2009) as torchvision stores it; an index is the image's place in the training set.

    Args:
        root: Folder that holds, or is to hold, torchvision's `cifar-10-batches-py`.
        download: Whether to download it (170 MB) where it is missing.
        classes: Some of the ten, labelled in this order; all by default.
        image_size: Height and width in pixels; other than 32 resizes.
        batch_size: Images in a batch.
        val_share: Share of the training images held out for validation; 0 validates on the test images.
        mean: Subtracted from the images in [0, 1]; one number, or one per channel.
        std: Divides the images; one number, or one per channel.
        num_workers: Processes that load images; 0 loads in the main one.
        seed: Chooses the split and the order.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        classes: list[str] | None = None,
        image_size: int = 32,
        batch_size: int = 32,
        val_share: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, image_size, batch_size, val_share, mean, std, num_workers, seed)
        _check_known(self._chosen, CIFAR10_CLASSES)
        self.root, self.download = root, download

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names in the order of their labels."""
        return self._chosen or CIFAR10_CLASSES

    def prepare_data(self) -> None:
        """Download the images if that was asked for and they are missing.

        Raises:
            FileNotFoundError: If they cannot be had.
        """
        if self.download:
            try:
                torchvision.datasets.CIFAR10(self.root, download=True)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(f"CIFAR-10 could not be downloaded ({error}); {_INSTEAD}") from error

    def _load(self, split: str) -> Pictures | None:
        if split == "val":
            return None
        try:
            stored = torchvision.datasets.CIFAR10(self.root, train=split == "train")
        except RuntimeError:
            how = "download=True (--data.download=true on the command line) fetches it"
            raise FileNotFoundError(f"CIFAR-10 is not in {Path(self.root).absolute()}: {how}; {_INSTEAD}") from None
        label = {CIFAR10_CLASSES.index(name): place for place, name in enumerate(self.classes)}
        indices = [index for index, target in enumerate(stored.targets) if target in label]
        images = torch.from_numpy(np.ascontiguousarray(stored.data[indices].transpose(0, 3, 1, 2)))
        labels = [label[stored.targets[index]] for index in indices]
        return Stored(images, labels, indices, self.image_size, f"CIFAR-10 {split}")


class ImageFolder(Images):
    """Any folder of class folders, directly or below `train/` and perhaps `val/` and `test/`.

    Grey pictures get three equal channels, transparency is dropped. Where all training files are named by different
    numbers (`train/truck/00001.png`), an image's index is its number; else indices count the sorted paths.

    Args:
        root: The folder.
        classes: Some of the class folders, labelled in this order; all, sorted, by default.
        image_size: Height and width in pixels; other images are cut to their middle square and resized.
        batch_size: Images in a batch.
        val_share: Share of the training images held out for validation where there is no `val/`; 0 validates on the
            test images.
        mean: Subtracted from the images in [0, 1]; one number, or one per channel.
        std: Divides the images; one number, or one per channel.
        num_workers: Processes that load images; 0 loads in the main one.
        seed: Chooses the split and the order.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        root: str,
        classes: list[str] | None = None,
        image_size: int = 32,
        batch_size: int = 32,
        val_share: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(classes, image_size, batch_size, val_share, mean, std, num_workers, seed)
        self.root = root

    @cached_property
    def classes(self) -> tuple[str, ...]:  # read from the disk when first needed
        """The classes' names in the order of their labels."""
        folder = self._folder("train") or Path(self.root)
        found = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))
        if len(found) < 2:
            what = f"only {found[0]!r}" if found else "none"
            raise ValueError(f"{folder} must hold a folder for each of at least two classes, found {what}")
        _check_known(self._chosen, found)
        return self._chosen or found

    def _folder(self, split: str) -> Path | None:
        """Where a split's class folders are; None if there is no such split."""
        root = Path(self.root)
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder: {root.absolute()}")
        if (root / "train").is_dir():
            return root / split if (root / split).is_dir() else None
        return root if split == "train" else None

    def _load(self, split: str) -> Pictures | None:
        folder = self._folder(split)
        if folder is None:
            return None
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            own = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
            if not own:
                raise ValueError(f"the class folder {folder / name} holds no image ({', '.join(IMG_EXTENSIONS)})")
            paths += own
            labels += [label] * len(own)
        return Files(paths, labels, self.image_size)


def _check_known(chosen: tuple[str, ...] | None, known: tuple[str, ...]) -> None:
    """Refuse classes that do not exist."""
    unknown = [name for name in chosen or () if name not in known]
    if unknown:
        raise ValueError(f"unknown classes {', '.join(unknown)}; there are {', '.join(known)}")
