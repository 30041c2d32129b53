"""Several processes, one audit: each looks at its share, all hear the results, and none waits for one that failed."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning import Trainer
from torch import Tensor

from leakage_audit.callbacks.capture.collectives import met
from leakage_audit.runtime import OutOfTime

T = TypeVar("T")


class AuditSkipped(Exception):
    """This step cannot be audited; the message says why."""


def gather(trainer: Trainer, mine: T) -> list[T]:
    """What every rank holds, by rank. Every rank must call it."""
    if trainer.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def together(trainer: Trainer, work: Callable[[], T]) -> T:
    """Do the work on every rank; where it fails on one, it fails on all, and the next collective finds everybody.

    Collectives within the work, a user's or ours, are entered by all ranks or by none (see `collectives`).

    Raises:
        OutOfTime: If the time was up on any rank.
        AuditSkipped: If it failed on another rank; on the failing one its own exception goes on.
    """
    error: Exception | None = None
    try:
        with met(trainer):
            result = work()
    except Exception as caught:  # any failure has to be told to the other ranks
        error = caught
    late = isinstance(error, OutOfTime)
    failures = gather(trainer, None if error is None else (late, f"{type(error).__name__}: {error}"))
    if any(failure is not None and failure[0] for failure in failures):
        raise OutOfTime("the time was up") from error
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise AuditSkipped(f"rank {rank} could not audit: {failure[1]}")
    return result


def average(trainer: Trainer, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over the ranks, in place: what DDP does to a step's own gradient."""
    if trainer.world_size > 1:
        for gradient in gradients.values():
            torch.distributed.all_reduce(gradient)
            gradient /= trainer.world_size
    return gradients


def share(trainer: Trainer, total: int) -> int:
    """How many of `total` this rank takes."""
    return total // trainer.world_size + (trainer.global_rank < total % trainer.world_size)


def agree(trainer: Trainer, mine: bool) -> bool:
    """Rank 0's opinion, for decisions that clocks have a part in. Every rank must call it."""
    return mine if trainer.world_size == 1 else bool(trainer.strategy.broadcast(mine))
