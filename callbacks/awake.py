"""How long a process was suspended while something was timed: that is nobody's cost."""

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Suspensions:
    """Watches, from a thread of its own, for gaps in which neither it nor anything else of the process ran.

    A long call that holds the interpreter leaves gaps, too, but uses the processor; waiting for another process or for
    an accelerator uses none, but lets the thread run.

    Args:
        tick: Seconds between two looks.
        gap: Seconds without a look that are worth a question: a busy machine makes a thread wait for some tenths.
        idle: Share of a gap up to which the process may have used a processor and still count as suspended.
        clock: Seconds, monotonic.
        worked: Seconds of processors' time that the process has used.

    Attributes:
        seconds: The gaps' sum.
    """

    def __init__(
        self,
        tick: float = 0.25,
        gap: float = 1.0,
        idle: float = 0.2,
        clock: Callable[[], float] = time.perf_counter,
        worked: Callable[[], float] = time.process_time,
    ) -> None:
        self.seconds = 0.0
        self._tick, self._gap, self._idle, self._clock, self._worked = tick, gap, idle, clock, worked
        self._last = clock(), worked()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="leakage-audit-suspensions", daemon=True)

    def look(self) -> None:
        """Ask how long it is since the last look, and what was done meanwhile."""
        now = self._clock(), self._worked()
        gap, used = (a - b for a, b in zip(now, self._last, strict=True))
        self._last = now
        if gap > self._gap and used < self._idle * gap:
            self.seconds += gap

    def __enter__(self) -> "Suspensions":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._tick):
            self.look()
        self.look()
