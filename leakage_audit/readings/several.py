"""Several images at once, in sentences: the ones that leaked most and least, how many are recognisable, the limit."""

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

from leakage_audit.readings.evaluation import (
    Evaluation,
    ImageScore,
    attack_names,
    determined_count,
    highest,
    image_scores,
    lowest,
    recognised,
)


def sentences(evaluations: Sequence[Evaluation]) -> list[str]:
    """One an attack that ended by itself on every image, and one on the limit; none of a single image.

    Images are counted from one, through all evaluations: as the pictures have them.
    """
    total = sum(len(evaluation.labels) for evaluation in evaluations)
    if total < 2:
        return []
    found = []
    for name in attack_names(evaluations):
        best, least, count = highest(evaluations, name), lowest(evaluations, name), recognised(evaluations, name)
        if best is not None and least is not None and count is not None:
            most, fewest = (_told(evaluations, name, score) for score in (best, least))
            found.append(
                f"{name}: {count[0]} of {total} images are recognisable; most came back of {most}, least of {fewest}."
            )
    count = determined_count(evaluations)
    if count is not None:
        psnr = [x for evaluation in evaluations if evaluation.limit is not None for x in evaluation.limit.psnr]
        solved = all(evaluation.limit is not None and evaluation.limit.solved for evaluation in evaluations)
        found.append(
            f"The gradient determines {'' if solved else 'at least '}{count[0]} of {total} images recognisably: "
            f"{min(psnr):.1f} to {max(psnr):.1f} dB, {fmean(psnr):.1f} in the mean."
        )
    return found


def positions(evaluations: Sequence[Evaluation], attack: str) -> dict[str, int]:
    """Where among all images, from 0, those stand of which an attack got `most` and `least`; empty if not known."""
    pair = {"most": highest(evaluations, attack), "least": lowest(evaluations, attack)}
    return {word: _position(evaluations, attack, score) for word, score in pair.items() if score is not None}


def _told(evaluations: Sequence[Evaluation], attack: str, score: ImageScore) -> str:
    place = _position(evaluations, attack, score) + 1
    return f"image {place} ({score.psnr:.1f} dB, {score.severity})"


def _position(evaluations: Sequence[Evaluation], attack: str, score: ImageScore) -> int:
    begins = accumulate((len(evaluation.labels) for evaluation in evaluations), initial=0)
    for evaluation, begin in zip(evaluations, begins, strict=False):
        if score in image_scores(evaluation, attack):
            return begin + score.image
    raise ValueError("the score is of none of these evaluations")
