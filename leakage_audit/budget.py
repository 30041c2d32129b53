"""A limit on time, and a voice for long work: every iterative attack loops over `Budget.steps`."""

import time
from collections.abc import Callable, Iterator


class Budget:
    """How long an attack may run, and whom it tells how far it is.

    Args:
        seconds: Wall-clock limit, counted from construction; None sets none.
        report: Called as `report(what, done)` with a short description and the share done in [0, 1].

    Raises:
        ValueError: If `seconds` is not positive.
    """

    def __init__(self, seconds: float | None = None, report: Callable[[str, float], None] | None = None) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds must be positive or None, got {seconds}")
        self.seconds = seconds
        self._report = report
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
            if self._report is not None:
                self._report(what, step / total)
            yield step
        if self._report is not None:
            self._report(what, 1.0)
