"""What audits say in the log: each thing once, on one rank, at a level that people see where it matters."""

import logging
from collections.abc import Sequence
from typing import Any

from leakage_audit.callbacks.capture.step_reader import StepReader
from leakage_audit.callbacks.evaluation.evaluate import Evaluation
from leakage_audit.callbacks.tally import Tally, kind_of

log = logging.getLogger("leakage_audit")
_WHERE_LIGHTNING_TELLS = "{}.utilities.rank_zero"  # the name of the logger that says which devices are used


class Voice:
    """Speaks for the audits of one fit.

    Args:
        trainer: Says rank.
    """

    def __init__(self, trainer: Any) -> None:
        self._speaks = trainer.is_global_zero
        other_name = type(trainer).__module__.startswith("pytorch_lightning")
        package = "pytorch_lightning" if other_name else "lightning.pytorch"
        self._lightning = logging.getLogger(_WHERE_LIGHTNING_TELLS.format(package))
        self._said: set[str] = set()

    def once(self, message: str, key: str | None = None, level: int = logging.WARNING) -> None:
        """Say something, unless it (or what has the same key) has been said.

        What is no warning is heard too by who has set up no logging: beside Lightning's own lines, and silenced with
        them or by a level of the logger `leakage_audit`.
        """
        if (key or message) not in self._said and self._speaks:
            asked = log.isEnabledFor(level) or log.level != logging.NOTSET
            (log if asked else self._lightning).log(level, message)
        self._said.add(key or message)

    def tell(self, step: int, reader: StepReader, evaluations: Sequence[Evaluation], skipped: str | None) -> None:
        """What was assumed of the module, what is doubtful about it, and what could not be done.

        Args:
            step: The optimiser's, counted from 0.
            reader: Who has read it.
            evaluations: What was found.
            skipped: Why the audit did not take place; None if it did.
        """
        if reader.assumed:
            doubtful = bool(reader.doubts) or skipped is not None
            message = "audit reads the module thus: " + "; ".join(reader.assumed)
            self.once(message, level=logging.WARNING if doubtful else logging.INFO)
        for doubt in reader.doubts:
            self.once(doubt)
        if skipped is not None:
            self.once(f"audit of optimiser step {step} skipped: {skipped}", key=kind_of(skipped))
        for evaluation in evaluations:
            for name, problem in evaluation.problems.items():
                self.once(f"{name} is not available: {problem}")
            if evaluation.security is not None and evaluation.security.counted:
                self.once(f"c(M) is {evaluation.security.counted}")

    def sum_up(self, tally: Tally) -> None:
        """How many audits took place, how many did not, and mostly why not."""
        if tally.done or tally.skipped:
            self.once(f"leakage audit: {tally}", level=logging.WARNING if tally.skipped else logging.INFO)
