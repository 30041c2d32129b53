"""Under DP-SGD: the share of the audited images that came back, beside the most that its noise allows."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from leakage_audit.measures.reconstruction_robustness import RobustnessPoint, robustness_curve
from leakage_audit.readings.evaluation import Evaluation
from leakage_audit.readings.metric_table import ROBUSTNESS_BOUND, ROBUSTNESS_MEASURED
from leakage_audit.scores.severity import GAIN


class Robustness:
    """All images that one fit's audits attacked, as a curve over distances (docs/method/defences.md, section 15.4).

    The chance of the guess is counted on the audited images themselves, each once: of few images it is coarse, and the
    bound high. New images at every audit (`probe="batch"`) make it sharper.

    Args:
        mu: How well one step's noise lets the presence of an image be told; None where nothing is promised.

    >>> Robustness(None).curve
    []
    """

    def __init__(self, mu: float | None) -> None:
        self._mu = mu
        self._guesses: dict[float, None] = {}  # an image that is followed comes again and again
        self._found: list[float] = []

    def add(self, evaluations: Sequence[Evaluation]) -> None:
        """Count an audit's images; one that no attack has an image of tells nothing."""
        for evaluation in evaluations if self._mu is not None else ():
            best = [-float("inf")] * len(evaluation.labels)
            for outcome in evaluation.outcomes.values():
                for psnr, image in zip(outcome.scores.psnr, outcome.scores.order, strict=True):
                    best[image] = max(best[image], psnr)
            tried = [i for i, psnr in enumerate(best) if psnr > -float("inf")]
            self._guesses |= dict.fromkeys(evaluation.floor.psnr[i] for i in tried)
            self._found += [best[i] for i in tried]

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The curve at every distance that a guess or an attack reached, as a record holds it."""
        return [asdict(point) for point in self._at(None)]

    @property
    def metrics(self) -> dict[str, float]:
        """Both shares at one distance: recognisable, that is 6 dB nearer than the guess comes on average."""
        if not self._found:
            return {}
        (point,) = self._at([fmean(self._guesses) + GAIN["recognisable"]])
        return {ROBUSTNESS_BOUND.name: point.bound, ROBUSTNESS_MEASURED.name: point.measured}

    def _at(self, psnrs: list[float] | None) -> list[RobustnessPoint]:
        return robustness_curve(list(self._guesses), self._found, self._mu or 0.0, psnrs) if self._found else []
