"""An observation measured, attacked and scored: what every metric is read from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from leakage_audit.attacks.base import Reconstruction
from leakage_audit.measures.security import Security
from leakage_audit.readings.reading import PROOF, Status, limit_severity, status, worst
from leakage_audit.scores.metrics import Scores
from leakage_audit.scores.severity import SEVERITIES, severities

LIMIT = "limit"  # among the problems: why there is no limit


@dataclass(frozen=True)
class AttackOutcome:
    """What one attack made of the observation.

    Attributes:
        result: The reconstruction, images on the CPU, the value range brought to [0, 1].
        scores: Against the truth.
        out_of_time: Whether the time limit ended the attack.
    """

    result: Reconstruction
    scores: Scores
    out_of_time: bool

    @property
    def no_result(self) -> str | None:
        """Why the attack did not end by itself, so that its numbers are no result; None if it did."""
        if self.out_of_time:
            return "out of time"
        if self.result.converged:
            return None
        # An attack that could not begin returns a grey image without a residual, and its reason.
        return self.result.ended if math.isnan(self.result.residual) else "stopped before it converged"


@dataclass(frozen=True)
class LimitOutcome:
    """What the gradient determines of each image, whoever attacks.

    Attributes:
        psnr: In dB, an image each.
        solved: Whether it was solved to its end; otherwise the numbers are lower bounds.
        image: The image that is determined `(B, C, H, W)` in [0, 1], on the CPU.
        granted: What the gradient hides of the images and the attacker was told, as `Limit.granted`.
    """

    psnr: list[float]
    solved: bool
    image: Tensor | None = None
    granted: tuple[str, ...] = ()


@dataclass
class Evaluation:
    """An observation measured and attacked.

    Attributes:
        truth: The true images `(B, C, H, W)` in [0, 1], on the CPU.
        labels: Their classes.
        floor: What guessing without a gradient scores.
        security: c(M) and the layer table, None where the network is no readable chain.
        outcomes: By attack.
        problems: What could not be done, in sentences, by attack or `"c"`.
        refused: Attacks that do not apply to this network, whatever its gradient.
        limit: What the gradient determines of each image while the others of the batch are unknown as well.
        limit_others_known: The same for an attacker who knows the other images.
    """

    truth: Tensor
    labels: list[int]
    floor: Scores
    security: Security | None = None
    outcomes: dict[str, AttackOutcome] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    limit: LimitOutcome | None = None
    limit_others_known: LimitOutcome | None = None


@dataclass(frozen=True)
class ImageScore:
    """One attack's scores on one image.

    Attributes:
        image: Index of the true image in its evaluation.
        no_result: Why the attack did not end by itself, or None.
    """

    image: int
    psnr: float
    ssim: float
    chance_psnr: float
    severity: str
    no_result: str | None

    @property
    def leak(self) -> tuple[int, float]:
        """By which images are ordered: the word first, then the decibels above the guess."""
        return SEVERITIES.index(self.severity), self.psnr - self.chance_psnr


def image_scores(evaluation: Evaluation, attack: str) -> Iterator[ImageScore]:
    """An attack's scores on each image that it returned; none if it failed."""
    outcome = evaluation.outcomes.get(attack)
    if outcome is None:
        return
    scores, words = outcome.scores, severities(outcome.scores, evaluation.floor)
    for i, truth in enumerate(scores.order):
        chance = evaluation.floor.psnr[truth]
        yield ImageScore(truth, scores.psnr[i], scores.ssim[i], chance, words[i], outcome.no_result)


def attack_names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The attacks that returned something, in their order."""
    return list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.outcomes))


def unreached(evaluations: Sequence[Evaluation], attack: str) -> list[str]:
    """Why an attack has nothing to show for some of the observations: out of time before it began, an error.

    Where it was refused it does not apply, so that nothing is missing.
    """
    return [
        e.problems[attack]
        for e in evaluations
        if attack in e.problems and attack not in e.outcomes and attack not in e.refused
    ]


def highest(evaluations: Sequence[Evaluation], attack: str) -> ImageScore | None:
    """The image of which an attack got most, or None where that is not known.

    Images whose attack did not end by itself, or never began, might have given more, so there is an answer only if
    there are none, or if one that ended has leaked already.
    """
    found = [score for evaluation in evaluations for score in image_scores(evaluation, attack)]
    ended = max((score for score in found if score.no_result is None), key=lambda score: score.leak, default=None)
    missing = any(score.no_result for score in found) or bool(unreached(evaluations, attack))
    if ended is None or (SEVERITIES.index(ended.severity) < PROOF and missing):
        return None
    return ended


def lowest(evaluations: Sequence[Evaluation], attack: str) -> ImageScore | None:
    """The image of which an attack got least, or None unless it ended by itself on every image."""
    found = _ended(evaluations, attack)
    return min(found, key=lambda score: score.leak) if found else None


def recognised(evaluations: Sequence[Evaluation], attack: str) -> tuple[int, int] | None:
    """How many images an attack got back recognisably, of how many; None unless it ended by itself on every one."""
    found = _ended(evaluations, attack)
    return (sum(SEVERITIES.index(score.severity) >= PROOF for score in found), len(found)) if found else None


def _ended(evaluations: Sequence[Evaluation], attack: str) -> list[ImageScore]:
    """An attack's scores on all images, if it ended by itself on every one, else none."""
    found = [score for evaluation in evaluations for score in image_scores(evaluation, attack)]
    complete = len(found) == sum(len(evaluation.labels) for evaluation in evaluations)
    return found if complete and all(score.no_result is None for score in found) else []


def determined_count(evaluations: Sequence[Evaluation]) -> tuple[int, int] | None:
    """How many images the gradient determines recognisably, of how many; None without a limit of each.

    A limit that was not solved to its end is a lower bound, and so is then this number.
    """
    found = []
    for evaluation in evaluations:
        if evaluation.limit is None:
            return None
        found += [limit_severity(*x) for x in zip(evaluation.limit.psnr, evaluation.floor.psnr, strict=True)]
    return (sum(SEVERITIES.index(word) >= PROOF for word in found), len(found)) if found else None


def leaked(evaluations: Sequence[Evaluation]) -> tuple[int, int]:
    """How many images some attack got back recognisably, however it ended, of how many."""
    found = [image_status(evaluation, i) for evaluation in evaluations for i in range(len(evaluation.labels))]
    return found.count(Status.LEAKS), len(found)


def no_results(evaluations: Sequence[Evaluation]) -> dict[str, tuple[float, str]]:
    """Attacks whose `highest` is not known: the PSNR reached so far, -inf where nothing was, and the reason.

    Under `LIMIT` the same of the limit.
    """
    found: dict[str, tuple[float, str]] = {}
    for name in attack_names(evaluations):
        if highest(evaluations, name) is None:
            scores = [x for e in evaluations for x in image_scores(e, name)]
            reasons = [x.no_result for x in scores if x.no_result is not None] + unreached(evaluations, name)
            found[name] = max((x.psnr for x in scores), default=-math.inf), (reasons or ["no reconstruction"])[0]
    for evaluation in evaluations:
        for name, problem in evaluation.problems.items():
            passed_over = name in evaluation.refused and bool(evaluation.outcomes)  # others could be tried
            if name != "c" and name not in attack_names(evaluations) and not passed_over:
                found.setdefault(name, (-math.inf, problem))
    return found


def image_status(evaluation: Evaluation, image: int) -> Status:
    """What is known of one true image, from all attacks and the limit."""
    found = [x for name in evaluation.outcomes for x in image_scores(evaluation, name) if x.image == image]
    best = max(found, key=lambda score: score.leak, default=None)
    limit = evaluation.limit
    word = None if limit is None else limit_severity(limit.psnr[image], evaluation.floor.psnr[image])
    ended = all(score.no_result is None for score in found)
    return status(None if best is None else best.severity, ended, word, limit is not None and limit.solved)


def audit_status(evaluations: Sequence[Evaluation]) -> Status:
    """The status of the audit: that of its worst image."""
    return worst([image_status(e, i) for e in evaluations for i in range(len(e.labels))])
