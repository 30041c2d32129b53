"""CIFAR-10 as a LightningDataModule."""

from pathlib import Path

import numpy as np
import torch
import torchvision

from leakage_audit.data.images import Images, check_known
from leakage_audit.data.pictures import Pictures, Stored

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_INSTEAD = "without a network, use leakage_audit.data.Synthetic, which draws its images from a seed"


class CIFAR10DataModule(Images):
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

    Example::

        CIFAR10DataModule("data", download=True, classes=["truck", "deer"])
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
        check_known(self._chosen, CIFAR10_CLASSES)
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
