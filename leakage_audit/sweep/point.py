"""One point of a sweep: a network trained under a defence, and what its defended gradients still give away."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit import attacks
from leakage_audit.compare.experiment import Experiment
from leakage_audit.defences import ClipPerSample, Composition, DefenceError, Shared
from leakage_audit.defences.clip_per_sample import sample_gradients
from leakage_audit.measures.limit import Limit
from leakage_audit.measures.noise import effective_metric
from leakage_audit.measures.noisy_limit import noisy_limit
from leakage_audit.measures.security import security_metric
from leakage_audit.observation import Observation, observe
from leakage_audit.readings.attackers import strongest
from leakage_audit.readings.evaluation import AttackOutcome, Evaluation, LimitOutcome, audit_status
from leakage_audit.runtime import Budget, OverBudget
from leakage_audit.scores.metrics import chance_floor
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
        psnr: Its PSNR in dB; mean over the draws of noise, as all that follows on attacks.
        ssim: Its SSIM.
        knows: Whether it knew the defence; None where there was nothing to know.
        psnr_knows: The best that knew it; None where none could begin.
        psnr_not_knows: The best that did not; likewise.
        chance: What a guess of the mean image scores, for the image that leaked most.
        status: Of the worst image: leaks, protected, open, unknown.
        seconds: CPU time of the point.
        problem: What could not be done.
        psnr_highest: Of the draws of noise the one in which an attack got most, in dB.
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
    psnr_highest: float | None = None


COLUMNS = tuple(field.name for field in fields(PointRow))


def measure_point(
    recipe: Recipe,
    mechanism: str,
    strength: float,
    indices: Sequence[int],
    attack_names: Sequence[str],
    seconds: float | None = None,
    draws: int = 1,
) -> PointRow:
    """Train with the defence, then attack what it shares of some training images at the trained weights.

    Args:
        recipe: The training.
        mechanism: Its name.
        strength: Its number.
        indices: Of the training images to attack.
        attack_names: As `leakage_audit.attacks.build` takes them.
        seconds: Time limit of each attack on each image, by both attackers together, and of each limit.
        draws: Of noise; attacks' results are averaged over them, and the worst gives the status.
    """
    start = time.process_time()
    trained = recipe.train(mechanism, strength)
    composition = Composition(trained.mechanisms, recipe.seed)
    images = torch.stack([recipe.data.image_at(i).image for i in indices])
    labels = torch.tensor([recipe.data.image_at(i).label for i in indices])
    guess = recipe.data.mean_image(Experiment.guessed_from)
    with torch.inference_mode(False), torch.enable_grad():
        seen = [_observe(recipe, trained, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
        try:
            shared = [composition.share(one.gradients, 0, i) for i, one in enumerate(seen)]
        except DefenceError as error:
            return _row(trained, mechanism, strength, problem=str(error), seconds=time.process_time() - start)
        attackers = [s.attackers(one) for s, one in zip(shared, seen, strict=True)]
        limits = [limit_of(x[0], images[i : i + 1], labels[i : i + 1], seconds) for i, x in enumerate(attackers)]
        if not composition.is_noise:
            limits = [x if x is None else replace(x, solved=False) for x in limits]
        whole = limit_of(_batch(recipe, trained, composition, images, labels), images, labels, seconds)
        found = [
            [
                attacked(who, images[i : i + 1], labels[i : i + 1], limits[i], attack_names, guess, seconds)
                for who in [first, *_drawn_again(composition, seen[i], shared[i], i, draws)]
            ]
            for i, first in enumerate(attackers)
        ]
    errors = [s.relative_error(one.gradients) for s, one in zip(shared, seen, strict=True)]
    return _row(
        trained, mechanism, strength,
        **_measures(attackers[0][0], seen[0], errors[0]),
        relative_error=sum(errors) / len(errors),
        limit=_highest(limits), limit_solved=all(x is not None and x.solved for x in limits),
        limit_unknown=_highest([whole]),
        limit_unknown_solved=whole is not None and whole.solved and composition.is_noise,
        **strongest_on_average(found), status=str(audit_status([x for each in found for x in each])),
        seconds=round(time.process_time() - start, 2),
    )  # fmt: skip


def _row(trained: Trained, mechanism: str, strength: float, **found: object) -> PointRow:
    about = {"accuracy": trained.accuracy, "epsilon": trained.epsilon, "noise_multiplier": trained.noise_multiplier}
    return PointRow(mechanism, strength, **about, **found)  # type: ignore[arg-type]


def _observe(recipe: Recipe, trained: Trained, images: Tensor, labels: Tensor) -> Observation:
    return observe(trained.network, images, labels, mean=recipe.mean, std=recipe.std)


def _drawn_again(
    composition: Composition, seen: Observation, shared: Shared, place: int, draws: int
) -> Iterator[list[Observation]]:
    """What attackers see in the other draws of a defence's noise; nothing where it has none."""
    if composition.is_noise and any(bool(error.any()) for error in shared.error.values()):
        for draw in range(1, draws):
            yield composition.share(seen.gradients, 0, place, draw).attackers(seen)


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


def attacked(
    attackers: Sequence[Observation], truth: Tensor, labels: Tensor, limit: Limit | None, names: Sequence[str],
    guess: Tensor | None, seconds: float | None,
) -> Evaluation:  # fmt: skip
    """One image attacked by all who may have seen its gradient; attacks that fail are said and left out.

    Args:
        attackers: What each of them sees; who knows the defence first.
        truth: The image `(1, C, H, W)` in [0, 1].
        labels: Its class `(1,)`.
        limit: What its gradient determines, if that is known.
        names: As `leakage_audit.attacks.build` takes them.
        guess: What it is held against.
        seconds: Time limit of each attack, by all attackers together.
    """
    found = Evaluation(truth, labels.tolist(), chance_floor(guess, truth))
    found.limit = None if limit is None else LimitOutcome(list(limit.psnr), limit.solved)
    for name in names:
        try:
            found.outcomes[name] = strongest(attacks.build(name), attackers, truth, Budget(seconds))
        except Exception as error:  # an attack that fails proves nothing, and must not end the sweep
            log.warning("%s failed: %s: %s", name, type(error).__name__, error)
    return found


def by_attacker(outcome: AttackOutcome) -> list[float | None]:
    """PSNR in dB that who knows the defence got of one image, and who does not; None for who could not begin."""
    both = outcome.result.details.get("psnr_by_attacker", 2 * [outcome.scores.psnr])
    return [None if psnr is None else psnr[0] for psnr in both]


def strongest_on_average(found: Sequence[Sequence[Evaluation]]) -> dict[str, object]:
    """A row's part on the attacks: of each image by draw of noise, the attack that got most of one on average."""
    tried = [(draws, name, [x.outcomes[name] for x in draws if name in x.outcomes])
             for draws in found for name in dict.fromkeys(name for x in draws for name in x.outcomes)]  # fmt: skip
    if not tried:
        return {}
    draws, name, best = max(tried, key=lambda one: fmean(x.scores.psnr[0] for x in one[2]))
    each = [[by_attacker(outcome) for outcome in outcomes] for _, _, outcomes in tried]
    knows, does_not = (
        max((mean for mean in (_mean(pair[k] for pair in pairs) for pairs in each) if mean is not None), default=None)
        for k in (0, 1)
    )
    knower, other = (_mean(column) for column in zip(*map(by_attacker, best), strict=True))
    told = best[0].result.details.get("knows_defence")
    told = told if told is None or knower is None or other is None else knower >= other
    return {
        "attack": name, "psnr": fmean(x.scores.psnr[0] for x in best), "ssim": fmean(x.scores.ssim[0] for x in best),
        "knows": told,
        "psnr_knows": knows, "psnr_not_knows": does_not, "chance": draws[0].floor.psnr[0],
        "psnr_highest": max(x.scores.psnr[0] for _, _, outcomes in tried for x in outcomes),
    }  # fmt: skip


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


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
