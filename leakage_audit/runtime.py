"""What work may take: one clock and one purse that every long work asks, progress for whoever waits, threads."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import scipy.linalg  # noqa: F401  loaded before the controller looks for libraries
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor


class OverBudget(Exception):
    """Work was not begun, or broken off, for want of time or memory."""


class OutOfTime(OverBudget, TimeoutError):
    """The time was up, or would have been before the work was done."""


class OutOfMemory(OverBudget, MemoryError):
    """The work would need more memory than it may take; nothing was allocated."""


class Budget:
    """How long work may run and how much memory it may hold, and whom it tells how far it is.

    Whoever begins something long asks first. What is refused for want of time leaves `stopped` behind, so that work
    that ended early is not taken for work that ended by itself.

    Args:
        seconds: Wall-clock limit, counted from construction; None sets none.
        report: Called as `report(what, done)` with a short description and the share done in [0, 1].
        memory_gb: Memory that the work may hold beyond what there is at its start; None sets no limit.
        cancelled: Asked for another reason to end, such as a signal; None knows none.

    Attributes:
        seconds: The limit.
        memory_gb: The limit.
        tell: Who is told; to hand on to a share of this budget.

    Raises:
        ValueError: If a limit is not positive.
    """

    def __init__(
        self,
        seconds: float | None = None,
        report: Callable[[str, float], None] | None = None,
        memory_gb: float | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        for name, limit in (("seconds", seconds), ("memory_gb", memory_gb)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive or None, got {limit}")
        self.seconds, self.memory_gb, self.tell = seconds, memory_gb, report
        self._cancelled = cancelled
        self._refused = False
        self._unit: dict[str, float] = {}
        self._held = [0.0]  # bytes, of this budget and of all its shares
        self._start = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since construction."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return math.inf if self.seconds is None else max(self.seconds - self.spent, 0.0)

    @property
    def exhausted(self) -> bool:
        """Whether the time limit has passed, or the work was told to end."""
        return self.left <= 0 or (self._cancelled is not None and self._cancelled())

    @property
    def stopped(self) -> bool:
        """Whether the clock ended the work: the time is up, or something was not begun as it would not have fitted."""
        return self._refused or self.exhausted

    @property
    def memory(self) -> float:
        """Bytes that the work may hold beside what it holds already; infinite without a limit."""
        return math.inf if self.memory_gb is None else max(self.memory_gb * 1e9 - self._held[0], 0.0)

    def affords(self, seconds: float) -> bool:
        """Whether there is as much time left."""
        fits = not self.exhausted and seconds <= self.left
        self._refused |= not fits
        return fits

    def check(self, seconds: float = 0.0) -> None:
        """Go on only if there is time.

        Raises:
            OutOfTime: If there is not as much left.
        """
        if not self.affords(seconds):
            raise OutOfTime("the time was up")

    def require(self, what: str, memory: float = 0.0, flops: float = 0.0) -> None:
        """Go on only if one operation that nothing can interrupt fits in the memory and in the time left.

        Args:
            what: That needs it, for the message.
            memory: Bytes.
            flops: Floating point operations in double precision, as dense products do them.

        Raises:
            OutOfMemory: If there is not as much memory.
            OutOfTime: If there is not as much time.
        """
        self.require_memory(what, memory)
        if self.exhausted or (self.seconds is not None and not self.affords(flops / flops_per_second())):
            raise OutOfTime(f"the time is up for {what}")

    def require_memory(self, what: str, memory: float) -> None:
        """Go on only if so many bytes fit beside what is held already, whatever the time; see `require`."""
        if memory > self.memory:
            beside = f" beside {self._held[0] / 1e9:.2g} GB that are held already" if self._held[0] else ""
            raise OutOfMemory(
                f"{what} needs about {memory / 1e9:.2g} GB of memory{beside}; "
                f"max_memory_gb = {self.memory_gb:g} allows less"
            )

    @contextmanager
    def holding(self, what: str, memory: float) -> Iterator[None]:
        """Around work during which something is kept: it counts for all shares, and `memory` is less by it.

        Args:
            what: Is kept, for the message.
            memory: Bytes.

        Raises:
            OutOfMemory: If there is not as much memory.
        """
        self.require_memory(what, memory)
        self._held[0] += memory
        try:
            yield
        finally:
            self._held[0] -= memory

    def foresee(self, units: float, kind: str) -> None:
        """Go on only if work of this size would fit, at the speed of the last of its kind; anything does before.

        Args:
            units: Its size, in units that the works of a kind share.
            kind: What they share.

        Raises:
            OutOfTime: If there is not as much time left.
        """
        self.check(units * self._unit.get(kind, 0.0))

    @contextmanager
    def work(self, units: float = 1.0, kind: str = "") -> Iterator[None]:
        """Around work of a size that was met before: not begun if, at the speed of the last such work, it won't fit.

        Args:
            units: Its size, in units that the works of a kind share.
            kind: What they share.

        Raises:
            OutOfTime: If there is not as much time left.
        """
        self.foresee(units, kind)
        begun = self.spent
        yield
        self._unit[kind] = (self.spent - begun) / units

    def share(self, part: float = 1.0) -> "Budget":
        """A part of the time left, with the same memory: for works that follow one another.

        Args:
            part: In (0, 1].
        """
        seconds = None if self.seconds is None else max(part * self.left, 1e-9)
        given = Budget(seconds, self.tell, self.memory_gb, self._cancelled)
        given._unit, given._held = self._unit, self._held  # speeds are the same for all of them, and so is the purse
        return given

    def sparing(self, units: float, kind: str) -> "Budget":
        """The time left but for what work of a size takes, at the speed of the last of its kind; none before.

        Args:
            units: Its size, in units that the works of a kind share.
            kind: What they share.

        Raises:
            OutOfTime: If nothing would be left.
        """
        needed = units * self._unit.get(kind, 0.0)
        self.check(needed)
        return self.share(1 - needed / self.left if needed else 1.0)

    def steps(self, total: int, what: str) -> Iterator[int]:
        """Count 0, 1, … total - 1, ending early when the time is up, or would be within a step as long as the last.

        Args:
            total: Number of steps.
            what: What the steps do, for the progress report.
        """
        last = 0.0
        for step in range(total):
            if not self.affords(last):
                return
            if self.tell is not None:
                self.tell(what, step / total)
            begun = self.spent
            yield step
            last = self.spent - begun
        if self.tell is not None:
            self.tell(what, 1.0)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors take in memory, each counted once.

    >>> ones = torch.ones(3, dtype=torch.float64)
    >>> bytes_of([ones, ones, torch.ones(2)])
    32
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in tensors}.values())


@cache
def flops_per_second() -> float:
    """Floating point operations of a dense product in double precision that this process makes in a second."""
    a = torch.ones(384, 384, dtype=torch.float64)
    a @ a
    start = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * 384**3 / max(time.perf_counter() - start, 1e-6)


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
