"""When to audit: every so many optimiser steps, the first one included, within a share of the training time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leakage_audit.callbacks.awake import Suspensions


class Schedule:
    """Decides for each optimiser step whether it is audited.

    Args:
        every_n_steps: Audit steps 0, N, 2N, …
        max_overhead: Audits may take this share of the time spent training; a scheduled step whose audit, at the
            cost of the dearest one yet, would exceed it is passed over. None sets no limit; the first audit is never
            passed over.
        clock: Seconds, monotonic.

    Raises:
        ValueError: If `every_n_steps` is below 1 or `max_overhead` not positive.
    """

    def __init__(
        self,
        every_n_steps: int,
        max_overhead: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if max_overhead is not None and not max_overhead > 0:
            raise ValueError(f"max_overhead must be positive (0.1 for a tenth) or None, got {max_overhead}")
        self.every_n_steps, self.max_overhead = every_n_steps, max_overhead
        self.audits, self.passed_over = 0, 0
        self._clock, self._began = clock, clock()
        self._spent = self._dearest = 0.0

    def start(self) -> None:
        """Begin to count training time here."""
        self._began, self._spent = self._clock(), 0.0

    def due(self, step: int) -> bool:
        """Whether step (counted from 0) is audited."""
        if step % self.every_n_steps:
            return False
        affordable = self.affordable()
        self.passed_over += not affordable
        return affordable

    def clocked(self, step: int) -> bool:
        """Whether a clock has a part in deciding on this step, so that several processes may disagree."""
        return self.max_overhead is not None and step % self.every_n_steps == 0

    def affordable(self) -> bool:
        """Whether one more audit keeps to `max_overhead`."""
        if self.max_overhead is None or self.audits == 0:
            return True
        training = self._clock() - self._began - self._spent
        return self._spent + self._dearest <= self.max_overhead * training

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count what happens inside as one audit, but for the time that the process was suspended."""
        start = self._clock()
        suspensions = Suspensions()
        try:
            with suspensions:
                yield
        finally:
            self._began += suspensions.seconds  # it was no training either
            seconds = self._clock() - start - suspensions.seconds
            self._spent += seconds
            self._dearest = max(self._dearest, seconds)
            self.audits += 1
