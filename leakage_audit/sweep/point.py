"""One point of a sweep: a network trained under a defence, and what its defended gradients still give away."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit import attacks
from leakage_audit.attacks.base import Reconstruction
from leakage_audit.compare.experiment import Experiment
from leakage_audit.defences import ClipPerSample, Composition, DefenceError
from leakage_audit.defences.clip_per_sample import sample_gradients
from leakage_audit.measures.limit import Limit
from leakage_audit.measures.noise import effective_metric
from leakage_audit.measures.noisy_limit import noisy_limit
from leakage_audit.measures.security import security_metric
from leakage_audit.observation import Observation, observe
from leakage_audit.readings.reading import Status, limit_severity, status, worst
from leakage_audit.runtime import Budget, OverBudget
from leakage_audit.scores.metrics import Scores, chance_floor, score
from leakage_audit.scores.severity import severity
from leakage_audit.sweep.mechanisms import BOUND
from leakage_audit.sweep.recipe import Recipe, Trained

log = logging.getLogger("leakage_audit")

LEAST_EPSILON = 1e-7  # of c_ε(M): the rounding of the gradient itself


@dataclass(frozen=True)
class PointRow:
    """A line of `results.csv`.

    Attributes:
        mechanism: Its name.
        strength: Its number; see `mechanisms.MECHANISMS`.
        accuracy: On the held-out images.
        epsilon: ε that the training spent; None where it is not differentially private.
        noise_multiplier: Of DP-SGD.
        c: c(M) of the defended gradient; None where the network has none, or its head is not shared.
        c_epsilon: c_ε(M) with ε what the shared gradient is off by, as a share of its size.
        relative_error: That share, mean over the images.
        limit: PSNR in dB that a single image's shared gradient determines, the highest of the images: the adversary
            who knows the batch's other images, and takes their part away.
        limit_solved: Whether it is known to the end; else it is at least this.
        limit_unknown: The same for all images averaged into one gradient, none of them known.
        limit_unknown_solved: Likewise.
        attack: The attack that got most of any image.
        psnr: Its PSNR in dB.
        ssim: Its SSIM.
        knows: Whether it knew the defence.
        psnr_knows: The best that knew it.
        psnr_not_knows: The best that did not.
        chance: What a guess of the mean image scores, for the image that leaked most.
        status: Of the worst image: leaks, protected, open, unknown.
        seconds: CPU time of the point.
        problem: What could not be done.
    """

    mechanism: str
    strength: float
    accuracy: float | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None
    c: float | None = None
    c_epsilon: float | None = None
    relative_error: float | None = None
    limit: float | None = None
    limit_solved: bool = False
    limit_unknown: float | None = None
    limit_unknown_solved: bool = False
    attack: str = ""
    psnr: float | None = None
    ssim: float | None = None
    knows: bool | None = None
    psnr_knows: float | None = None
    psnr_not_knows: float | None = None
    chance: float | None = None
    status: str = "unknown"
    seconds: float = 0.0
    problem: str = ""


COLUMNS = tuple(field.name for field in fields(PointRow))


@dataclass(frozen=True)
class Attempt:
    """One attack on one image by one attacker."""

    image: int
    attack: str
    knows: bool
    found: Reconstruction
    scores: Scores
    in_time: bool


def measure_point(
    recipe: Recipe,
    mechanism: str,
    strength: float,
    indices: Sequence[int],
    attack_names: Sequence[str],
    seconds: float | None = None,
) -> PointRow:
    """Train with the defence, then attack what it shares of some training images at the trained weights.

    Args:
        recipe: The training.
        mechanism: Its name.
        strength: Its number.
        indices: Of the training images to attack.
        attack_names: As `leakage_audit.attacks.build` takes them.
        seconds: Time limit of each attack on each image, and of each limit.
    """
    start = time.process_time()
    trained = recipe.train(mechanism, strength)
    composition = Composition(trained.mechanisms, recipe.seed)
    images = torch.stack([recipe.data.image_at(i).image for i in indices])
    labels = torch.tensor([recipe.data.image_at(i).label for i in indices])
    floor = chance_floor(recipe.data.mean_image(Experiment.guessed_from), images)
    with torch.inference_mode(False), torch.enable_grad():
        seen = [_observe(recipe, trained, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
        try:
            shared = [composition.share(one.gradients, 0, i) for i, one in enumerate(seen)]
        except DefenceError as error:
            return _row(trained, mechanism, strength, problem=str(error), seconds=time.process_time() - start)
        knowing = [s.seen_by(one, knows=True) for s, one in zip(shared, seen, strict=True)]
        limits = [limit_of(one, images[i : i + 1], labels[i : i + 1], seconds) for i, one in enumerate(knowing)]
        if not composition.is_noise:
            limits = [x if x is None else replace(x, solved=False) for x in limits]
        whole = limit_of(_batch(recipe, trained, composition, images, labels), images, labels, seconds)
        attempts = [
            attempt
            for i, (s, one) in enumerate(zip(shared, seen, strict=True))
            for knows in (True, False)
            for attempt in attempts_on(i, s.seen_by(one, knows), knows, attack_names, images[i], seconds)
        ]
    errors = [s.relative_error(one.gradients) for s, one in zip(shared, seen, strict=True)]
    best = max(attempts, key=lambda a: a.scores.psnr[0], default=None)
    found = {} if best is None else {
        "attack": best.attack, "psnr": best.scores.psnr[0], "ssim": best.scores.ssim[0], "knows": best.knows,
        "psnr_knows": max((a.scores.psnr[0] for a in attempts if a.knows), default=None),
        "psnr_not_knows": max((a.scores.psnr[0] for a in attempts if not a.knows), default=None),
        "chance": floor.psnr[best.image],
    }  # fmt: skip
    states = [image_status(i, limits[i], attempts, floor) for i in range(len(images))]
    return _row(
        trained, mechanism, strength,
        **_measures(knowing[0], seen[0], errors[0]),
        relative_error=sum(errors) / len(errors),
        limit=_highest(limits), limit_solved=all(x is not None and x.solved for x in limits),
        limit_unknown=_highest([whole]),
        limit_unknown_solved=whole is not None and whole.solved and composition.is_noise,
        **found, status=str(worst(states)), seconds=round(time.process_time() - start, 2),
    )  # fmt: skip


def _row(trained: Trained, mechanism: str, strength: float, **found: object) -> PointRow:
    about = {"accuracy": trained.accuracy, "epsilon": trained.epsilon, "noise_multiplier": trained.noise_multiplier}
    return PointRow(mechanism, strength, **about, **found)  # type: ignore[arg-type]


def _observe(recipe: Recipe, trained: Trained, images: Tensor, labels: Tensor) -> Observation:
    return observe(trained.network, images, labels, mean=recipe.mean, std=recipe.std)


def _batch(recipe: Recipe, trained: Trained, composition: Composition, images: Tensor, labels: Tensor) -> Observation:
    """All images averaged into one shared gradient, as who knows the defence sees it."""
    seen = _observe(recipe, trained, images, labels)
    if not composition.needs_samples:
        return composition.share(seen.gradients, 0, len(images)).seen_by(seen, knows=True)
    samples = sample_gradients(trained.network, F.cross_entropy, seen.to_input(images), labels, list(seen.gradients))
    if trained.noise_multiplier is None:
        return composition.share_samples(samples, 0, len(images)).seen_by(seen, knows=True)
    clipped = ClipPerSample(BOUND).reduce(samples)  # of DP-SGD the noise is put on the sum
    std = trained.noise_multiplier * BOUND / len(images)
    noise = {k: torch.full_like(g, std) for k, g in clipped.gradients.items()}
    return clipped.changed(clipped.gradients, noise).seen_by(seen, knows=True)


def limit_of(seen: Observation, images: Tensor, labels: Tensor, seconds: float | None) -> Limit | None:
    """What the gradient determines; None where it holds nothing, or there was no time to know."""
    try:
        return noisy_limit(seen, images, labels, budget=Budget(seconds))
    except (ValueError, OverBudget):  # a gradient that holds nothing determines nothing that could be linearised
        return None


def attempts_on(
    image: int, seen: Observation, knows: bool, names: Sequence[str], truth: Tensor, seconds: float | None
) -> list[Attempt]:
    """Attacks on one image by one attacker; those that fail are said and left out."""
    found = []
    for name in names:
        budget = Budget(seconds)
        try:
            guess = attacks.build(name)(seen, budget)
        except Exception as error:  # an attack that fails proves nothing, and must not end the sweep
            log.warning("%s failed on image %d: %s: %s", name, image, type(error).__name__, error)
            continue
        in_time = not budget.stopped and not (math.isnan(guess.residual) and not guess.converged)
        found.append(Attempt(image, name, knows, guess, score(guess.images, truth[None]), in_time))
    return found


def _measures(knowing: Observation, seen: Observation, error: float) -> dict[str, float | None]:
    """c(M) of what is shared, and c_ε(M) of the gradient at the error that the defence put on it."""
    found: dict[str, float | None] = {"c": None, "c_epsilon": None}
    with suppress(ValueError):  # the network is no chain, or its head is not shared
        found["c"] = security_metric(knowing).c
    with suppress(ValueError):
        found["c_epsilon"] = effective_metric(seen, [max(error, LEAST_EPSILON)])[0].c
    return found


def _highest(limits: Sequence[Limit | None]) -> float | None:
    return max((max(x.psnr) for x in limits if x is not None), default=None)


def image_status(image: int, limit: Limit | None, attempts: Sequence[Attempt], floor: Scores) -> Status:
    """What is known of one image."""
    mine = [a for a in attempts if a.image == image]
    chance = floor.psnr[image], floor.ssim[image]
    best = max(mine, key=lambda a: a.scores.psnr[0], default=None)
    word = None if best is None else severity(best.scores.psnr[0], best.scores.ssim[0], *chance)
    bound = None if limit is None else limit_severity(limit.psnr[0], chance[0])
    return status(word, bool(mine) and all(a.in_time for a in mine), bound, limit is not None and limit.solved)
