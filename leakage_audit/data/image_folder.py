"""Any folder of class folders, as a LightningDataModule."""

from functools import cached_property
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from leakage_audit.data.images import Images, check_known
from leakage_audit.data.pictures import Files, Pictures


class ImageFolderDataModule(Images):
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

    Example::

        ImageFolderDataModule("pictures", image_size=64)  # pictures/train/<class>/*.png
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
        check_known(self._chosen, found)
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
