"""The fixed images that a fit's audits follow, left beside the log for a resumed fit."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor

Probe = tuple[Tensor, Tensor]
Say = Callable[[str], None]


def save_probe(probe: Probe, folder: Path | None, trainer: Trainer, say: Say) -> None:
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


def load_probe(folder: Path | None, trainer: Trainer, device: torch.device, say: Say) -> Probe | None:
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
