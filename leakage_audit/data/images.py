"""The base of the data modules: batches of inputs, a split and an order from a seed, single images by index."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leakage_audit.data.pictures import Pictures
from leakage_audit.observation import as_tuple, per_channel


class Example(NamedTuple):
    """One image by itself.

    Attributes:
        image: `(3, H, W)` in [0, 1], not normalised.
        label: Its place in `classes`.
        source: The file's path, or a description.
    """

    image: Tensor
    label: int
    source: str


class Images(L.LightningDataModule):
    """What the three data modules share: batches of normalised inputs `(B, 3, H, W)` and labels `(B,)`.

    Attributes:
        mean: Per channel, or one for all; an input is `(image - mean) / std` with the image in [0, 1].
        std: Per channel, or one for all.
    """

    def __init__(
        self,
        classes: list[str] | None,
        image_size: int,
        batch_size: int,
        val_share: float,
        mean: float | list[float],
        std: float | list[float],
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        if classes is not None and (len(classes) < 2 or len(set(classes)) < len(classes)):
            raise ValueError(f"classes must name at least two, each once, got {classes}")
        for name, value, least in (
            ("image_size", image_size, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= val_share < 1:
            raise ValueError(f"val_share must be at least 0 and below 1, got {val_share}")
        self.mean, self.std = as_tuple(mean), as_tuple(std)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be one finite number or three, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        self._chosen = None if classes is None else tuple(classes)
        self.image_size, self.batch_size, self.val_share = image_size, batch_size, val_share
        self.num_workers, self.seed = num_workers, seed

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The classes' names in the order of their labels."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @abstractmethod
    def _load(self, split: str) -> Pictures | None:
        """The pictures of `train`, `val` or `test`; None if the source has no such split."""

    @cached_property
    def _train(self) -> Pictures:
        found = self._load("train")
        assert found is not None  # every source has training images, or says why not
        return found

    @cached_property
    def _val(self) -> Pictures | None:
        return self._load("val")

    @cached_property
    def _test(self) -> Pictures | None:
        return self._load("test")

    def setup(self, stage: str) -> None:
        """Load what `fit`, `validate` or `test` needs.

        Raises:
            FileNotFoundError: If the images are not there.
            ValueError: If what is there is not a set of images to classify.
        """
        if stage == "test" and self._test is None:
            raise ValueError(f"{type(self).__name__} found no test images beside its training images")
        if stage != "test" and not self._split()[0]:
            raise ValueError(f"no image is left to train on: {len(self._train)} in all, val_share {self.val_share}")
        for pictures in [self._test] if stage == "test" else [self._train, self._held_out()[0]]:
            if pictures is not None:
                pictures.prepare()

    def _split(self) -> tuple[list[int], list[int]]:
        """Positions of the training images and of those held out for validation, the same for the same seed."""
        count = len(self._train)
        if self._val is not None or self.val_share == 0:
            return list(range(count)), []
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed)).tolist()
        held_out = max(1, round(self.val_share * count))
        return sorted(order[held_out:]), sorted(order[:held_out])

    def _held_out(self) -> tuple[Pictures | None, list[int]]:
        """The images to validate on: the source's own, else a share of the training images, else the test images."""
        if self._val is None and self.val_share > 0:
            return self._train, self._split()[1]
        pictures = self._test if self._val is None else self._val
        return pictures, list(range(len(pictures or ())))

    def train_dataloader(self) -> DataLoader:
        """Training batches, shuffled by a generator of their own."""
        return self._loader(self._train, self._split()[0], shuffle=True)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The source's validation images, else those held out, else (`val_share` 0) the test images, else none."""
        return self._loader(*self._held_out())

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """The source's test images, if it has any."""
        return self._loader(self._test, list(range(len(self._test or ()))))

    def _loader(self, pictures: Pictures | None, positions: list[int], shuffle: bool = False) -> Any:
        if pictures is None:
            return []  # Lightning's way to say that there is nothing to validate or test on
        return DataLoader(
            _Inputs(pictures, positions, self.mean, self.std),
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # Also where nothing is shuffled: without one, each pass takes a number from torch's global stream.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def image_at(self, index: int) -> Example:
        """The training image of that index, whether or not it is held out for validation.

        Raises:
            ValueError: If there is none.
        """
        try:
            position = self._positions[index]
        except KeyError:
            indices = self._train.indices
            about = f"{len(indices)} training images of {self.num_classes} classes, {min(indices)} … {max(indices)}"
            raise ValueError(f"there is no image {index} among the {about}") from None
        pictures = self._train
        return Example(pictures.load(position).float() / 255, pictures.labels[position], pictures.source(position))

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {index: position for position, index in enumerate(self._train.indices)}

    def one_per_class(self) -> list[int]:
        """For each class the lowest index of its training images."""
        pairs = list(zip(self._train.labels, self._train.indices, strict=True))
        return [min(index for label, index in pairs if label == wanted) for wanted in range(self.num_classes)]

    def sample(self, count: int) -> Tensor:
        """Training images `(min(count, all), 3, H, W)` in [0, 1], chosen by the seed."""
        order = torch.randperm(len(self._train), generator=torch.Generator().manual_seed(self.seed))
        return self._train.several(order[:count].tolist()).float() / 255

    @property
    def indices(self) -> list[int]:
        """The training images' indices, in order."""
        return sorted(self._train.indices)

    def all_but(self, left_out: Sequence[int] = ()) -> Tensor:
        """Training images `(N, C, H, W)` in [0, 1] without those of some indices.

        Raises:
            ValueError: If there is no image of such an index.
        """
        unwanted = set(left_out)
        missing = unwanted - set(self._train.indices)
        if missing:
            raise ValueError(f"there is no image {min(missing)} to leave out")
        kept = [i for i, index in enumerate(self._train.indices) if index not in unwanted]
        return self._train.several(kept).float() / 255

    def mean_image(self, count: int = 1000) -> Tensor:
        """Mean `(3, H, W)` of `sample(count)`: the guess that `scores.chance_floor` scores."""
        return self.sample(count).mean(0)


class _Inputs(Dataset):
    """Pictures at some positions as normalised inputs with their labels."""

    def __init__(
        self, pictures: Pictures, positions: list[int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.pictures, self.positions = pictures, positions
        self.mean, self.std = (per_channel(values, torch.empty(0))[0] for values in (mean, std))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        position = self.positions[item]
        return (self.pictures.load(position).float() / 255 - self.mean) / self.std, self.pictures.labels[position]


def check_known(chosen: tuple[str, ...] | None, known: tuple[str, ...]) -> None:
    """Refuse classes that do not exist.

    Args:
        chosen: Names that were asked for; None asks for all.
        known: Names that there are.

    Raises:
        ValueError: If a name is unknown; the message lists those that there are.
    """
    unknown = [name for name in chosen or () if name not in known]
    if unknown:
        raise ValueError(f"unknown classes {', '.join(unknown)}; there are {', '.join(known)}")
