"""The limit of a gradient with noise of known size: the best that any weight of the prior against the noise gives.

`measures.limit` weighs the prior as it stands. Against noise that is not small the weight matters by decibels, and an
attacker can tune it (by the discrepancy principle, say), so a limit at one weight would be none. Here the noise is
taken for κ times its variance in the linear problem, for several κ, and what it really adds to the squared error is
counted, `bias² + variance/κ`; the auditor, who holds the truth, keeps the best. For κ → 0 that is the unbiased
estimate of least variance, the Cramér-Rao bound of what the equations determine.
"""

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from leakage_audit.measures.limit import GradientNoise, Limit, LimitOptions, Others, reconstruction_limit
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class NoisyLimitOptions(Checked):
    """Which weights are tried.

    Attributes:
        weights: κ; steps of four lose less than a decibel between them.
        limit: Of each linear problem; its noise is the observation's.
    """

    weights: tuple[float, ...] = (1.0, 0.25, 0.06, 0.015)
    limit: LimitOptions = field(default_factory=LimitOptions)

    def __post_init__(self) -> None:
        self.check(positive=("weights",))


def noisy_limit(
    seen: Observation,
    images: Tensor,
    labels: Tensor | int,
    *,
    others: Others = "unknown",
    options: NoisyLimitOptions = NoisyLimitOptions(),
    budget: Budget | None = None,
) -> Limit:
    """As `reconstruction_limit` with the observation's own `noise`, each image at its best weight of the prior.

    Args:
        seen: What leaked, as who knows the defence sees it; without noise this is `reconstruction_limit`.
        images: The true images, as there.
        labels: Their classes.
        others: What is known of the batch's other images.
        options: Which weights are tried.
        budget: Time limit and progress report, for all weights together.

    Returns:
        The limit at the weight that is best for the best image, `psnr` and `psnr_with_noise` both with what the noise
        adds in expectation, each image's at its own best weight; without a Jacobian at κ = 1 alone, without noise.

    Raises:
        ValueError: As `reconstruction_limit`.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> from leakage_audit.defences import Composition, GaussianNoise
        >>> image = torch.rand(1, 3, 8, 8)
        >>> seen = observe(models.build("cnn2_v1", image_size=8), image, 3)
        >>> found = [
        ...     noisy_limit(Composition([GaussianNoise(std)]).share(seen.gradients).seen_by(seen, True), image,
        ...                 torch.tensor([3])).psnr[0]
        ...     for std in (1e-6, 1e-2)
        ... ]
        >>> found[0] > 60 > 30 > found[1]
        True
    """
    budget = budget or Budget()
    if not seen.noise:
        return reconstruction_limit(seen, images, labels, others=others, options=options.limit, budget=budget)
    prior = TotalVariation().under_noise()  # as Joint holds it
    found: list[tuple[Limit, list[float]]] = []
    for left, weight in zip(range(len(options.weights), 0, -1), options.weights, strict=True):
        noise = GradientNoise(std={name: n * math.sqrt(weight) for name, n in seen.noise.items()})
        how, share = replace(options.limit, noise=noise), budget.share(1 / left)
        limit = reconstruction_limit(seen, images, labels, others=others, prior=prior, options=how, budget=share)
        if limit.psnr_with_noise is None:
            return limit
        pairs = zip(limit.psnr, limit.psnr_with_noise, strict=True)
        found.append((limit, [_with_noise(bias, both, weight) for bias, both in pairs]))
    best, _ = max(found, key=lambda pair: max(pair[1]))
    psnr = tuple(max(values) for values in zip(*(each for _, each in found), strict=True))
    solved = all(limit.solved for limit, _ in found)
    return replace(best, psnr=psnr, psnr_with_noise=psnr, solved=solved, seconds=sum(x.seconds for x, _ in found))


def _with_noise(psnr: float, psnr_with_noise: float, weight: float) -> float:
    """PSNR in expectation where the noise has 1/κ times the variance that the linear problem was told."""
    bias, both = 10 ** (-psnr / 10), 10 ** (-psnr_with_noise / 10)
    return -10 * math.log10(bias + max(both - bias, 0.0) / weight)
