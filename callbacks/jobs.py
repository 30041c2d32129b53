"""What is done with each captured sample of an audit: the arguments of `evaluate`, one sample at a time."""

from collections.abc import Iterator, Sequence

from lightning import Trainer

from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.evaluation.baseline import BaselineImage
from leakage_audit.callbacks.evaluation.evaluate import Job
from leakage_audit.callbacks.selection import Capture
from leakage_audit.callbacks.settings import Settings


class Jobs:
    """Makes the arguments of `evaluate` for an audit's samples.

    Args:
        trainer: Of the fit.
        settings: Of the audit.
        guess: What reconstructions are held against.
        defence: What is done to gradients before they are shared.
    """

    def __init__(
        self, trainer: Trainer, settings: Settings, guess: BaselineImage, defence: GradientDefence | None
    ) -> None:
        self._trainer, self._settings, self._guess = trainer, settings, guess
        self._bounded = defence is None or defence.composition.is_noise

    def __call__(self, captures: Sequence[Capture], attack: bool = True) -> Iterator[Job]:
        """For each sample in turn; a sample is made when its job is asked for, and not kept.

        Args:
            captures: Make the samples.
            attack: Whether attacks are run.
        """
        return (self._job(capture, attack, first=i == 0) for i, capture in enumerate(captures))

    def _job(self, capture: Capture, attack: bool, first: bool) -> Job:
        settings, captured = self._settings, capture()
        guess = self._guess(self._trainer, captured.truth.shape[1:])
        return (
            (captured.seen, captured.truth, captured.labels, settings.attacks if attack else {}),
            {
                "strict": settings.on_error == "raise",
                "limit": settings.limit,
                "options": settings.options,
                "bounded": self._bounded,
                "measure": first and self._trainer.is_global_zero,  # once an audit: ranks hardly depend on the image
                "guess": guess,
                "known": captured.known,
            },
        )
