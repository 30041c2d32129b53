"""What is to be evaluated of a step, as arguments of `evaluate`: computed here or in the background."""

from collections.abc import Sequence
from typing import Any

from lightning import Trainer

from leakage_audit.callbacks.capture.captured_sample import CapturedSample
from leakage_audit.callbacks.capture.rng_isolation import kept_generators
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.evaluation.baseline import BaselineImage
from leakage_audit.callbacks.evaluation.evaluate import Job
from leakage_audit.callbacks.settings import Settings


def jobs_of(
    samples: Sequence[CapturedSample],
    trainer: Trainer,
    settings: Settings,
    defence: GradientDefence | None,
    guess: BaselineImage,
    attack: bool = True,
) -> list[Job]:
    """The arguments of `evaluate` for each captured sample.

    Args:
        samples: What is looked at.
        trainer: Whose data the guess may be made of.
        settings: Of the audit.
        defence: What is done to gradients before they are shared.
        guess: What reconstructions are held against.
        attack: Whether to attack, or to measure alone.
    """
    with kept_generators(getattr(trainer, "datamodule", None), trainer.train_dataloader):
        guesses = [guess(trainer, captured.truth.shape[1:]) for captured in samples]
    common: dict[str, Any] = {"strict": settings.on_error == "raise"}
    bounded = defence is None or defence.composition.is_noise
    common |= {"limit": settings.limit, "options": settings.options, "bounded": bounded}
    return [
        (
            (captured.seen, captured.truth, captured.labels, settings.attacks if attack else {}),
            # Only once an audit: the ranks hardly depend on the image.
            common | {"measure": i == 0 and trainer.is_global_zero, "guess": guessed, "known": captured.known},
        )
        for i, (captured, guessed) in enumerate(zip(samples, guesses, strict=True))
    ]
