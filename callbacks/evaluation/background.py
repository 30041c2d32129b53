"""Looks taken by a worker process while training goes on."""

import pickle
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Generic, TypeVar

import torch

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.evaluation.evaluate import Evaluation, evaluate

Tag = TypeVar("Tag")


class Worker(Generic[Tag]):
    """One process that looks at observations, in the order in which they are handed over.

    What is handed over is pickled at once, so that training may go on changing whatever it was taken from.

    Args:
        limit: How many audits may wait or run; one more waits for the first to end.
    """

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self._pool: ProcessPoolExecutor | None = None
        self._jobs: deque[tuple[Tag, Future[bytes]]] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether the next audit has to wait."""
        return len(self._jobs) >= self.limit

    def submit(self, tag: Tag, jobs: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> None:
        """Hand over the arguments of `evaluate`, one call an observation.

        Raises:
            AuditSkipped: If they cannot be pickled (a loss or forward given as a lambda, for instance).
        """
        try:
            payload = pickle.dumps(jobs)
        except Exception as error:  # pickle raises what it likes
            raise AuditSkipped(
                f"the snapshot cannot be sent to the background ({error}); use background=False"
            ) from error
        if self._pool is None:
            # Spawned, not forked: a fork of a process whose threads hold locks may never wake up.
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            job = self._pool.submit(_work, payload)
        except BrokenProcessPool:  # killed while it was idle
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            job = self._pool.submit(_work, payload)
        self._jobs.append((tag, job))

    def finished(self, wait: int = 0) -> Iterator[tuple[Tag, list[Evaluation] | Exception]]:
        """The audits that have ended, in order, each with its looks or with what went wrong.

        Args:
            wait: For so many audits at least, if there are as many.
        """
        while self._jobs and (wait > 0 or self._jobs[0][1].done()):
            tag, job = self._jobs.popleft()
            wait -= 1
            try:
                yield tag, pickle.loads(job.result())
            except BrokenProcessPool:
                self._pool = None  # the next audit gets a new process
                yield tag, AuditSkipped("the background process died: killed, or out of memory")
            except Exception as error:
                yield tag, error

    def close(self) -> list[Tag]:
        """End the process, and say which audits are lost by it."""
        lost = [tag for tag, _ in self._jobs]
        self._jobs.clear()
        if self._pool is not None:
            for process in list(self._pool._processes.values()) if lost else []:
                process.kill()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        return lost


def _work(payload: bytes) -> bytes:
    torch.set_num_threads(1)  # the other cores are the training's
    return pickle.dumps([evaluate(*arguments, **keywords) for arguments, keywords in pickle.loads(payload)])
