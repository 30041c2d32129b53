"""How many of a fit's audits took place, why the others did not, and how often to go on trying."""

import re
from collections import Counter


class Tally:
    """Counts audits, and the reasons of those that were skipped."""

    def __init__(self) -> None:
        self.done = self.untried = 0
        self.reasons: Counter[str] = Counter()
        self._words: dict[str, str] = {}  # by their kind, as they were first said

    @property
    def skipped(self) -> int:
        """How many were skipped."""
        return self.reasons.total()

    def note(self, skipped: str | None, tried: bool = True) -> None:
        """Count one audit.

        Args:
            skipped: Why it was skipped; None if it took place.
            tried: Whether it was begun at all.
        """
        self.untried += not tried
        if skipped is None:
            self.done += 1
        else:
            self.reasons[self._words.setdefault(kind_of(skipped), skipped)] += 1

    def __str__(self) -> str:
        """One sentence.

        >>> tally = Tally()
        >>> tally.note(None)
        >>> tally.note("no labels")
        >>> str(tally)
        '1 of 2 audits took place, 1 skipped, most often: no labels'
        """
        total = self.done + self.skipped
        if not self.skipped:
            return f"{self.done} of {total} audits took place"
        reason, _ = self.reasons.most_common(1)[0]
        untried = f" ({self.untried} of them not tried, after several in a row had failed)" * bool(self.untried)
        return f"{self.done} of {total} audits took place, {self.skipped} skipped{untried}, most often: {reason}"


def kind_of(reason: str) -> str:
    """A reason without its numbers, which differ from step to step.

    >>> kind_of("differs by 12.5 %") == kind_of("differs by 3e-05 %")
    True
    """
    return re.sub(r"\d[\d.]*(e[+-]?\d+)?", "#", reason)


class Retries:
    """Makes tries rarer while they fail: all at first, then the 2nd, 4th, 8th, … of those that follow.

    A step that could not be verified costs copies of the module and a gradient for each way to read it. A module that
    an audit does not understand now, it may still understand later: after a warm-up, say.

    Args:
        patience: Failures in a row after which tries become rarer; three are no accident.
    """

    def __init__(self, patience: int = 3) -> None:
        self.patience = patience
        self.reason = ""
        self._failures = self._passed_over = 0

    def due(self) -> bool:
        """Whether the next one is tried; to be asked once each.

        >>> retries = Retries(patience=1)
        >>> tried = [retries.due() and not retries.note("no labels") for _ in range(9)]
        >>> [place for place, due in enumerate(tried) if due]
        [0, 2, 5]
        """
        late = self._failures - self.patience
        if late < 0 or self._passed_over >= 2**late:
            self._passed_over = 0
            return True
        self._passed_over += 1
        return False

    def note(self, reason: str | None) -> None:
        """What a try came to: why it failed, or None."""
        self._failures = 0 if reason is None else self._failures + 1
        self.reason = reason or ""
