"""How far a comparison is, and how long it will still take: a bar for people, an estimate that learns."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

MEASURABLE = 0.02  # share of an attack from which its pace is a measure: the first steps run on cold caches


class TimeLeft:
    """Guesses the time left from how long each attack has taken so far.

    Attacks differ in cost a thousandfold, so the share of cells that are done says little: a cell yet to come is
    taken to last as long as the same attack did on average, or, before its first end, as long as all the others did.

    Args:
        cells: What is to be done, in order.
    """

    def __init__(self, cells: Sequence[tuple[str, int, str]]) -> None:
        self.left = [attack for _, _, attack in cells]
        self.taken: dict[str, list[float]] = {}

    def finish(self, attack: str, seconds: float) -> None:
        """Take note of a finished cell."""
        self.left.remove(attack)
        self.taken.setdefault(attack, []).append(seconds)

    def seconds(self, attack: str, elapsed: float, done: float) -> float | None:
        """The guess while `attack` has run for `elapsed` seconds and is `done` in [0, 1] by its own account.

        None as long as nothing is known.
        """
        guess = {name: fmean(taken) for name, taken in self.taken.items()}
        now = elapsed / done if done > MEASURABLE else guess.get(attack)
        if now is not None:
            guess.setdefault(attack, now)
        if not guess:
            return None
        mean = fmean(guess.values())
        rest = list(self.left)
        rest.remove(attack)
        return max(0.0, (mean if now is None else now) - elapsed) + sum(guess.get(name, mean) for name in rest)


class Bar:
    """A progress bar over cells; without a console it keeps silent.

    Args:
        cells: What this process has to do.
        console: Where to draw.
    """

    def __init__(self, cells: Sequence[tuple[str, int, str]], console: Console | None = None) -> None:
        self._time = TimeLeft(cells)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f} of {task.total} · {task.fields[left]}"),
            TimeElapsedColumn(),
            console=console,
            disable=console is None or not cells,
            transient=True,
        )
        self._task = self._bar.add_task("", total=len(cells), left="")
        self._done = 0

    def start(self) -> None:
        """Begin to draw."""
        self._bar.start()

    def stop(self) -> None:
        """Clear the line."""
        self._bar.stop()

    @contextmanager
    def cell(self, network: str, index: int, attack: str) -> Iterator[Callable[[str, float], None]]:
        """Around the work on a cell; gives what its `Budget` reports to."""
        start = time.perf_counter()

        def report(what: str, done: float) -> None:
            elapsed = time.perf_counter() - start
            left = self._time.seconds(attack, elapsed, done)
            self._bar.update(
                self._task,
                description=f"{network}, image {index}: {what}",
                completed=self._done + min(done, 0.99),
                left="" if left is None else f"{timedelta(seconds=round(left))} left",
            )

        report(attack, 0.0)
        yield report
        self._time.finish(attack, time.perf_counter() - start)
        self._done += 1
        self._bar.update(self._task, completed=self._done)
