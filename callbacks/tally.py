"""How many of a fit's audits took place, and why the others did not."""

from collections import Counter


class Tally:
    """Counts audits, and the reasons of those that were skipped."""

    def __init__(self) -> None:
        self.done = 0
        self.reasons: Counter[str] = Counter()

    @property
    def skipped(self) -> int:
        """How many were skipped."""
        return self.reasons.total()

    def note(self, skipped: str | None) -> None:
        """Count one audit.

        Args:
            skipped: Why it was skipped; None if it took place.
        """
        if skipped is None:
            self.done += 1
        else:
            self.reasons[skipped] += 1

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
        return f"{self.done} of {total} audits took place, {self.skipped} skipped, most often: {reason}"
