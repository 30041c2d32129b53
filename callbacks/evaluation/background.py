"""Looks taken by a worker process while training goes on, and the end of a process that does not end by itself."""

import pickle
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from typing import Generic, TypeVar

import torch

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.evaluation.evaluate import OUT_OF_TIME, Evaluation, Job, evaluate_all, held_by
from leakage_audit.runtime import Budget

Tag = TypeVar("Tag")

POLL = 0.5  # seconds between two looks at whether an audit that is waited for has overstayed its time


@dataclass
class _Audit(Generic[Tag]):
    """One that waits or runs: what its result belongs to, and its arguments as they are sent."""

    tag: Tag
    parcel: "Parcel"
    job: Future[bytes]


@dataclass(frozen=True)
class Parcel:
    """An audit as it is sent: pickled, so that training may go on changing whatever it was taken from.

    Attributes:
        jobs: The arguments of `evaluate`, one an observation.
        seconds: What is left of the audit's time; None for no limit.
        memory_gb: Memory of the audit; None for no limit.
        held: Bytes of it that parcels take.
    """

    jobs: tuple[bytes, ...]
    seconds: float | None
    memory_gb: float | None
    held: int


class Worker(Generic[Tag]):
    """One process that looks at observations, in the order in which they are handed over.

    An audit's clock goes on in the process where it stopped when the audit was handed over: while it waits it does not
    count. Where the clock is not asked (a single operation of minutes), the process is killed, and the audits behind it
    go to a new one.

    Args:
        seconds: Wall-clock limit of a whole audit, for the message; None sets none.
        grace: Seconds by which an audit may overstay before its process is killed.
        limit: How many audits may wait or run; one more waits for the first to end.
    """

    def __init__(self, seconds: float | None = None, grace: float = 10.0, limit: int = 2) -> None:
        self.limit = limit
        self._seconds, self._grace = seconds, grace
        # Spawned, not forked: a fork of a process whose threads hold locks may never wake up.
        self._context = get_context("spawn")
        self._begun: Synchronized[float] = self._context.Value("d", 0.0)
        self._pool: ProcessPoolExecutor | None = None
        self._audits: deque[_Audit[Tag]] = deque()

    def __len__(self) -> int:
        return len(self._audits)

    @property
    def full(self) -> bool:
        """Whether the next audit has to wait."""
        return len(self._audits) >= self.limit

    def packed(self, jobs: Iterable[Job], budget: Budget) -> Parcel:
        """What `submit` takes, with what is left of an audit's limits.

        Args:
            jobs: The arguments of `evaluate`, one call an observation.
            budget: Of the audit. As many parcels as may wait count as held, and the one that the process has.

        Raises:
            AuditSkipped: If they cannot be pickled (a loss or forward given as a lambda, for instance).
            OutOfMemory: If there is not memory enough for them.
        """
        sent: list[bytes] = []
        for job in jobs:
            held = (self.limit + 1) * (held_by(job) + sum(map(len, sent)))
            budget.require_memory("what the background is sent", held)
            try:
                sent.append(pickle.dumps(job))
            except Exception as error:  # pickle raises what it likes
                raise AuditSkipped(
                    f"the snapshot cannot be sent to the background ({error}); use background=False"
                ) from error
        return Parcel(tuple(sent), budget.share().seconds, budget.memory_gb, (self.limit + 1) * sum(map(len, sent)))

    def submit(self, tag: Tag, parcel: Parcel) -> None:
        """Hand over an audit."""
        self._audits.append(_Audit(tag, parcel, self._sent(parcel)))

    def finished(self, wait: int = 0) -> Iterator[tuple[Tag, list[Evaluation] | Exception]]:
        """The audits that have ended, in order, each with its looks or with what went wrong.

        Args:
            wait: For so many audits at least, if there are as many.
        """
        while self._audits:
            first = self._audits[0]
            if not first.job.done() and not self._overdue:
                if wait <= 0:
                    return
                with suppress(StillRunning):
                    first.job.exception(POLL)
                continue
            overdue = self._overdue and not first.job.done()
            self._audits.popleft()
            wait -= 1
            if overdue:
                self._kill()
                yield first.tag, AuditSkipped(self._overstayed)
                continue
            try:
                yield first.tag, pickle.loads(first.job.result())
            except BrokenProcessPool:
                self._kill()
                yield first.tag, AuditSkipped("the background process died: killed, or out of memory")
            except Exception as error:
                yield first.tag, error

    def close(self) -> list[Tag]:
        """End the process, and say which audits are lost by it."""
        lost = [audit.tag for audit in self._audits]
        self._audits.clear()
        if lost:
            self._kill()
        elif self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        return lost

    def _sent(self, parcel: Parcel) -> Future[bytes]:
        if self._pool is None:
            self._start()
        assert self._pool is not None
        try:
            return self._pool.submit(_work, parcel)
        except BrokenProcessPool:  # killed while it was idle
            self._start()
            return self._pool.submit(_work, parcel)

    def _start(self) -> None:
        self._begun.value = 0.0
        self._pool = ProcessPoolExecutor(1, self._context, initializer=_keep_clock, initargs=(self._begun,))

    @property
    def _overdue(self) -> bool:
        """Whether the audit that runs is past its time and grace; the start of the process does not count."""
        begun, seconds = self._begun.value, self._audits[0].parcel.seconds
        return seconds is not None and begun > 0 and time.monotonic() - begun > seconds + self._grace

    @property
    def _overstayed(self) -> str:
        return (
            f"{OUT_OF_TIME}: the background process was killed, {self._grace:g} s after max_seconds = {self._seconds:g}"
            " had passed; raise max_seconds, or choose fewer attacks or samples"
        )

    def _kill(self) -> None:
        """End the process at once; the audits that waited behind go to a new one."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        for audit in self._audits:
            audit.job = self._sent(audit.parcel)


_clock: list["Synchronized[float]"] = []  # of this process, if it is a worker's


def _keep_clock(begun: "Synchronized[float]") -> None:
    _clock.append(begun)


def _work(parcel: Parcel) -> bytes:
    torch.set_num_threads(1)  # the other cores are the training's
    _clock[0].value = time.monotonic()
    try:
        budget = Budget(parcel.seconds, memory_gb=parcel.memory_gb)
        with budget.holding("what the background is sent", parcel.held):
            return pickle.dumps(evaluate_all(map(pickle.loads, parcel.jobs), len(parcel.jobs), budget))
    finally:
        _clock[0].value = 0.0
