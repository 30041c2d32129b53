"""What work may take: a limit on time that every iterative attack asks, progress for whoever waits, threads."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache

import scipy.linalg  # noqa: F401  loaded before the controller looks for libraries
from threadpoolctl import ThreadpoolController


class Budget:
    """How long an attack may run, and whom it tells how far it is.

    Args:
        seconds: Wall-clock limit, counted from construction; None sets none.
        report: Called as `report(what, done)` with a short description and the share done in [0, 1].

    Attributes:
        seconds: The limit.
        tell: Who is told; to hand on to a share of this budget.

    Raises:
        ValueError: If `seconds` is not positive.
    """

    def __init__(self, seconds: float | None = None, report: Callable[[str, float], None] | None = None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds must be positive or None, got {seconds}")
        self.seconds = seconds
        self.tell = report
        self._start = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since construction."""
        return time.perf_counter() - self._start

    @property
    def exhausted(self) -> bool:
        """Whether the time limit has passed."""
        return self.seconds is not None and self.spent >= self.seconds

    def steps(self, total: int, what: str) -> Iterator[int]:
        """Count 0, 1, … total - 1, ending early when the time is up.

        Args:
            total: Number of steps.
            what: What the steps do, for the progress report.
        """
        for step in range(total):
            if self.exhausted:
                return
            if self.tell is not None:
                self.tell(what, step / total)
            yield step
        if self.tell is not None:
            self.tell(what, 1.0)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def single_blas() -> AbstractContextManager:
    """A context in which numpy's and scipy's BLAS use one thread; afterwards as many as before. torch keeps its own.

    torch, numpy and scipy each bring a BLAS with threads of its own, and idle threads spin for a while before they
    sleep. Work that goes back and forth between them has every core contended for: measured on two cores, c(M) of the
    eight variants takes 7.0 s with all pools at two threads and 3.2 s with numpy's and scipy's at one.
    """
    return _controller().limit(limits=1, user_api="blas")
