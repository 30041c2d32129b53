"""Images to train on and to attack, as LightningDataModules: CIFAR-10, any image folder, or drawn from a seed."""

from leakage_audit.data.cifar10 import CIFAR10_CLASSES, CIFAR10DataModule
from leakage_audit.data.image_folder import ImageFolderDataModule
from leakage_audit.data.synthetic_images import SyntheticDataModule


# The short names are classes of their own, so that the command line finds them too: --data=CIFAR10.
class CIFAR10(CIFAR10DataModule):
    __doc__ = CIFAR10DataModule.__doc__


class ImageFolder(ImageFolderDataModule):
    __doc__ = ImageFolderDataModule.__doc__


class Synthetic(SyntheticDataModule):
    __doc__ = SyntheticDataModule.__doc__


__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "CIFAR10DataModule",
    "ImageFolder",
    "ImageFolderDataModule",
    "Synthetic",
    "SyntheticDataModule",
]
