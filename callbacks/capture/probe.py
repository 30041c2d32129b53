"""Which images are audited: the same few all along, left beside the log for a resumed fit, or new ones each time."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Say = Callable[[str], None]


class Probe:
    """Chooses images.

    Args:
        trainer: Says rank.
        fixed: Whether the first ones chosen are followed through the fit.
        seed: Picks them within a batch.
        folder: Where the fixed ones are left; None leaves them nowhere.
        earlier: Where an earlier run of the same fit left them.
        say: Told of what cannot be read or written.
    """

    def __init__(
        self, trainer: Trainer, fixed: bool, seed: int, folder: Path | None, earlier: Path | None, say: Say
    ) -> None:
        self._trainer, self._fixed, self._seed, self._say = trainer, fixed, seed, say
        self._folder, self._earlier = folder, earlier
        self._kept: Pair | None = None

    def choose(self, batch: Pair, count: int, all_along: int) -> Pair:
        """Images `(n, C, H, W)` and labels, at most `count` of them.

        Args:
            batch: From which they are taken, unless there are fixed ones already.
            count: How many are wanted now.
            all_along: How many are kept, if they are fixed.
        """
        if not self._fixed:
            return self._pick(batch, count)
        if self._kept is None:
            found = load_probe(self._earlier, self._trainer, batch[0].device, self._say)
            self._kept = found or self._pick(batch, all_along)
            if found is None or self._folder != self._earlier:  # a fit that goes on from this one looks here
                save_probe(self._kept, self._folder, self._trainer, self._say)
        return self._kept[0][:count], self._kept[1][:count]

    def _pick(self, batch: Pair, count: int) -> Pair:
        images, labels = batch
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(self._seed))[:count]
        return images[rows.to(images.device)].clone(), labels[rows.to(labels.device)].clone()


def save_probe(probe: Pair, folder: Path | None, trainer: Trainer, say: Say) -> None:
    """Leave images and labels in the folder, whole or not at all: a fit that is killed leaves no half of a file.

    Args:
        probe: Images `(B, C, H, W)` and labels.
        folder: None leaves nothing.
        trainer: Says rank.
        say: Told of what went wrong.
    """
    if folder is None:
        return
    path = _path(folder, trainer)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([part.cpu() for part in probe], unfinished)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter on a full disk
        unfinished.unlink(missing_ok=True)
        say(f"the fixed images could not be saved; a resumed fit will follow others: {error}")


def load_probe(folder: Path | None, trainer: Trainer, device: torch.device, say: Say) -> Pair | None:
    """The images that an earlier run of the same fit left, if they are there and can be read.

    Args:
        folder: Of the earlier run.
        trainer: Says rank.
        device: Where they are wanted.
        say: Told if they cannot be read.
    """
    path = None if folder is None else _path(folder, trainer)
    if path is None or not path.is_file():
        return None
    try:
        images, labels = torch.load(path, weights_only=True)
        return images.to(device), labels.to(device)
    except Exception as error:  # torch.load raises what it likes at a corrupt file
        say(f"the fixed images in {path} cannot be read ({type(error).__name__}); others are followed from here on")
        return None


def _path(folder: Path, trainer: Trainer) -> Path:
    return folder / f"probe_{trainer.global_rank}.pt"
