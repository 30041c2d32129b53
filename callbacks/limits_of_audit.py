"""The one clock and the one purse of an audit: made when it begins, passed down to everything that it does."""

from collections.abc import Callable

from lightning import Trainer

from leakage_audit.callbacks.evaluation.background import Worker
from leakage_audit.callbacks.evaluation.evaluate import OUT_OF_TIME
from leakage_audit.callbacks.evaluation.results import Pending
from leakage_audit.callbacks.settings import Settings
from leakage_audit.runtime import Budget

START_OR_END = 10.0  # seconds that a process may take for what its own clock does not see


def budget_of(trainer: Trainer, settings: Settings, report: Callable[[str, float], None]) -> Budget:
    """An audit's limits from here on; its time is up as well where the fit was told to end.

    Args:
        trainer: Of the fit.
        settings: With `max_seconds` and `max_memory_gb`.
        report: Told how far the audit is.
    """
    return Budget(settings.max_seconds, report, settings.max_memory_gb, lambda: told_to_end(trainer))


def told_to_end(trainer: Trainer) -> bool:
    """Whether SIGTERM has come: Lightning's handler takes note of it, and ends the fit only after the step."""
    return bool(getattr(trainer, "received_sigterm", False))


def unread(trainer: Trainer, settings: Settings) -> str:
    """Why an audit is skipped whose time was up before the step had been read."""
    if told_to_end(trainer):
        return f"{OUT_OF_TIME}: the fit was told to end"
    return f"{OUT_OF_TIME}: the step could not be read within max_seconds = {settings.max_seconds}; raise it"


def worker_of(settings: Settings) -> Worker[Pending] | None:
    """The process for audits in the background, if there is to be one."""
    if not settings.background:
        return None
    grace = START_OR_END + settings.options.grace * (settings.max_seconds or 0.0)
    return Worker(settings.max_seconds, grace)
