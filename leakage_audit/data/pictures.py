"""Where the pictures of a split lie: in memory, in files, or still to be drawn. `data` puts loaders around them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from leakage_audit.data import synthetic

KEPT_BYTES = 512 << 20  # a collection up to this size is kept in memory once it has been read


class Pictures(ABC):
    """Labelled pictures; `position` counts them from 0, `indices` are the numbers that people know them by.

    Args:
        labels: Class of each picture, 0 … k - 1.
        indices: Number of each picture, all different.
        size: Height and width that `load` gives.
    """

    def __init__(self, labels: Sequence[int], indices: Sequence[int], size: int) -> None:
        self.labels, self.indices, self.size = list(labels), list(indices), size

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, position: int) -> Tensor:
        """8-bit picture `(3, size, size)`."""

    def several(self, positions: Sequence[int]) -> Tensor:
        """8-bit pictures `(N, 3, size, size)`."""
        return torch.stack([self.load(position) for position in positions])

    @abstractmethod
    def source(self, position: int) -> str:
        """Where the picture comes from: a path, or a description."""

    def prepare(self) -> None:  # noqa: B027  # most have nothing to do
        """Do at once what would be slow picture by picture."""


class Stored(Pictures):
    """Pictures in memory.

    Args:
        images: 8-bit, `(N, 3, H, W)`.
        labels: Class of each picture.
        indices: Number of each picture.
        size: Height and width that `load` gives; other pictures are resized.
        name: What the collection is called.
    """

    def __init__(self, images: Tensor, labels: Sequence[int], indices: Sequence[int], size: int, name: str) -> None:
        super().__init__(labels, indices, size)
        self.images, self.name = images, name

    def load(self, position: int) -> Tensor:
        """8-bit picture `(3, size, size)`."""
        image = self.images[position]
        return image if image.shape[-1] == self.size else TF.resize(image, [self.size, self.size], antialias=True)

    def source(self, position: int) -> str:
        """The collection's name and the picture's number."""
        return f"{self.name} {self.indices[position]}"


class Drawn(Pictures):
    """Pictures drawn by `scenes`, the classes taking turns.

    Args:
        classes: Names of scenes.
        indices: Which pictures; the class of one is its index modulo the number of classes.
        size: Height and width.
        seed: Chooses the collection.
    """

    def __init__(self, classes: Sequence[str], indices: Sequence[int], size: int, seed: int) -> None:
        super().__init__([index % len(classes) for index in indices], indices, size)
        self.classes, self.seed = classes, seed
        self._drawn: Tensor | None = None

    def prepare(self) -> None:
        """Draw all of them."""
        if self._drawn is None:
            self._drawn = self.several(range(len(self)))

    def several(self, positions: Sequence[int]) -> Tensor:
        """8-bit pictures `(N, 3, size, size)`, drawn together, which is ten times faster than one at a time."""
        if self._drawn is not None:
            return self._drawn[list(positions)]
        drawn = torch.empty(len(positions), 3, self.size, self.size, dtype=torch.uint8)
        for label, name in enumerate(self.classes):
            own = [place for place, position in enumerate(positions) if self.labels[position] == label]
            indices = [self.indices[positions[place]] for place in own]
            drawn[own] = synthetic.draw(name, indices, self.size, self.seed)
        return drawn

    def load(self, position: int) -> Tensor:
        """8-bit picture `(3, size, size)`."""
        if self._drawn is not None:
            return self._drawn[position]
        return synthetic.draw(self.classes[self.labels[position]], [self.indices[position]], self.size, self.seed)[0]

    def source(self, position: int) -> str:
        """The class, the seed and the picture's number."""
        return f"synthetic {self.classes[self.labels[position]]}, seed {self.seed}, {self.indices[position]}"


class Files(Pictures):
    """Pictures in image files, read when asked for.

    Where all files are named by different numbers, those are the indices; else they are counted in the order given.

    Args:
        paths: One file a picture.
        labels: Class of each picture.
        size: Height and width that `load` gives.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], size: int) -> None:
        numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
        numbered = len(set(numbers)) == len(paths)
        super().__init__(labels, numbers if numbered else range(len(paths)), size)
        self.paths = list(paths)
        self._kept: dict[int, Tensor] | None = {} if len(paths) * 3 * size**2 <= KEPT_BYTES else None

    def load(self, position: int) -> Tensor:
        """8-bit picture `(3, size, size)`."""
        if self._kept is None:
            return read(self.paths[position], self.size)
        if position not in self._kept:
            self._kept[position] = read(self.paths[position], self.size)
        return self._kept[position]

    def source(self, position: int) -> str:
        """The file's path."""
        return str(self.paths[position])


def read(path: Path, size: int) -> Tensor:
    """Read an image file as 8-bit RGB `(3, size, size)`.

    Grey pictures get three equal channels, transparency is dropped, 16 bits are scaled to 8, a camera's rotation is
    undone. A picture of another shape is cut to its middle square and resized.

    Raises:
        ValueError: If the file is no image, is damaged, or holds floating-point pixels.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # PIL raises the last for some damaged PNGs
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if image.mode == "F":
        raise ValueError(f"{path} holds floating-point pixels, whose black and white are unknown; save it with 8 bits")
    if image.mode.startswith("I"):  # PIL would clip 16 bits to 8 instead of scaling them
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    if "transparency" in image.info:  # PIL warns unless it goes through RGBA
        image = image.convert("RGBA")
    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return TF.pil_to_tensor(image)
