"""Where a fit's files go: beside its log, or in a folder of its own."""

from itertools import count
from pathlib import Path

from lightning import Trainer


def choose_folder(trainer: Trainer) -> Path | None:
    """The logger's folder; without a logger a new `leakage_audit/run_N` below the trainer's `default_root_dir`.

    Files hold training images: those of one run must neither lie in the working directory nor mix with another's.
    Every rank must call it.

    Returns:
        The folder; None where no files are written (`fast_dev_run`).
    """
    log_dir = trainer.log_dir  # asked on every rank: Lightning broadcasts it
    if getattr(trainer, "fast_dev_run", False):
        return None
    if trainer.loggers:
        return Path(log_dir or trainer.default_root_dir)
    chosen = _new_folder(Path(trainer.default_root_dir)) if trainer.is_global_zero else None
    if trainer.world_size > 1:
        chosen = trainer.strategy.broadcast(chosen)
    return chosen


def _new_folder(root: Path) -> Path:
    """The first number that is free. Making the folder takes it, even if other processes look at the same time."""
    for number in count():
        folder = root / "leakage_audit" / f"run_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:  # no room, no right: writing will say so
            pass
        return folder
    raise AssertionError("unreachable")
