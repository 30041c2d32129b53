"""Work that Lightning shares out over processes and machines: a prediction over items, each done by one process."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

DAYS = timedelta(days=30)  # how long a process that is done waits for the others: an attack can take hours


class SharedWork(L.LightningModule):
    """Does the items that its process is given; subclasses say how, in `predict_step(item, place)`.

    Processes share nothing but a directory, so they need not keep step, except that the first waits for the others at
    the end.

    Args:
        items: All that is to be done, by all processes.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__()
        self.items = items

    @property
    def mine(self) -> list[Any]:
        """What this process has to do, as Lightning's sampler deals it."""
        return list(self.items[self.global_rank :: self.trainer.world_size])

    def predict_dataloader(self) -> DataLoader:
        """The items, one a batch."""
        return DataLoader(_Items(self.items), batch_size=1, collate_fn=itemgetter(0), generator=torch.Generator())

    def on_predict_end(self) -> None:
        """Wait for the other processes."""
        self.close()
        self.trainer.strategy.barrier("shared work")

    def close(self) -> None:
        """Let go of whatever is held, however the work ended."""


class _Items(Dataset):
    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


def share_out(
    work: SharedWork,
    output: str | Path,
    *,
    accelerator: str,
    devices: int | str,
    num_nodes: int,
    strategy: str | Strategy,
    console: Console | None,
    again: str,
) -> bool:
    """Do the work on as many processes as asked for.

    Args:
        work: What is to be done.
        output: Directory that all processes see.
        accelerator: As Lightning's Trainer takes it.
        devices: Processes on this machine.
        num_nodes: Machines.
        strategy: As Lightning's Trainer takes it; `auto` is `ddp` for several processes.
        console: Where to say that the work was broken off; None keeps silent.
        again: What to say then.

    Returns:
        Whether this is the first process, which sums up.

    Raises:
        SystemExit: With 143 after SIGTERM and 130 after Ctrl-C, as a shell names them.
    """
    several = num_nodes > 1 or devices not in (1, "1", "auto")
    if strategy == "ddp" or (strategy == "auto" and several):
        strategy = DDPStrategy(timeout=DAYS)
    with _quiet(), _ended_by_sigterm():
        trainer = L.Trainer(
            accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy, default_root_dir=output,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            inference_mode=False,
        )  # fmt: skip
        try:
            trainer.predict(work, return_predictions=False)
        except BaseException as end:
            if console is not None:
                console.print(again)
            if isinstance(end, SystemExit) and isinstance(end.__context__, KeyboardInterrupt):
                _exit(signal.SIGINT, None)  # Lightning ends with 1 after Ctrl-C, as after any failure
            raise
        finally:
            work.close()
    return bool(trainer.is_global_zero)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lightning takes note of SIGTERM and asks for it while it fits; a prediction would go on to its end."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # somebody's own handler, which Lightning calls after its own
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # as a shell names the end by a signal


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the trainer's remarks on hardware and loaders, which is not what this command is about."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for remark in ("does not have many workers", "predict returned None", "isinstance.treespec, LeafSpec"):
            warnings.filterwarnings("ignore", f".*{remark}")
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
