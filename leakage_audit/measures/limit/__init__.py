"""The reconstruction limit: how well ANY attacker can know the images of a step, to first order (docs/method.md).

An attack that fails proves nothing: it may have met a local minimum, a kink, a wrong label. The auditor can leave the
search out, since he holds the true images x*. Everything that the shared gradient g tells is linearised there and the
linear problem solved under the attacker's own prior, from grey,

    x̂ = argmin_x  −log p(x) + ½ ‖J (x − x*)‖²_N,        J = ∂g/∂x at x*,  N the variance of each gradient entry.

PSNR(x̂, x*) is the limit. Where an attack converges it is close to it; where the limit is far above every attack, the
attacks failed and not the network protects; where it is low, nobody with this prior can do better nearby.

**Why this may hold the truth.** It is a measure, not an attack: it says what a step exposes, about images that its
caller trains on, and hands nothing to an attack. No attack may, as its score would be worth nothing.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from leakage_audit.measures.limit.dense import Solved, bytes_needed, flops_needed, solve_dense
from leakage_audit.measures.limit.hidden_scale import PASS, Gradient, hidden_numbers, with_numbers
from leakage_audit.measures.limit.linearized_gradient import LinearizedGradient
from leakage_audit.measures.limit.matrix_free import solve_free
from leakage_audit.measures.limit.options import GradientNoise, LimitOptions, NumericsOptions
from leakage_audit.measures.limit.separable import SeparableGradient
from leakage_audit.measures.limit.step import Step, footprint_of, noise_of
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.priors import GREY, Prior, TotalVariation
from leakage_audit.runtime import Budget, single_blas
from leakage_audit.scores.metrics import PSNR_CAP

__all__ = ["GradientNoise", "Limit", "LimitOptions", "NumericsOptions", "reconstruction_limit"]

Others = Literal["unknown", "known"]
LINEARIZED = 9.0  # what linearizes the gradient takes, in evaluations of it (ResNet-18)


@dataclass(frozen=True)
class Limit:
    """What a shared gradient determines of its images, to first order, under a prior.

    Attributes:
        psnr: Of x̂ against each image, in dB, peak 1, nothing clipped: what is lost for want of equations. *At least*
            this where not `solved`.
        psnr_with_noise: The same with what the gradient's noise adds to the squared error in expectation; equal to
            `psnr` but for rounding where the gradient is exact. None without a dense Jacobian.
        images: x̂, `(B, C, H, W)`, not clipped.
        std: Posterior standard deviation of each entry, `(B, C, H, W)`; None without a dense Jacobian.
        rank: Of J: one number for the batch, or one an image where the others are known. None likewise.
        unknowns: Columns of J.
        equations: Rows of J, after compression.
        others: What the attacker knows of the other images of the batch.
        granted: Numbers of the images that the gradient hides and the attacker was told: their contrast, the mean of a
            channel (`hidden_scale`). The limit is a ceiling for those who must guess them.
        solved: Whether every linear problem was solved to the end and the prior's reweighting settled.
        residual: Largest relative error of a linear solve in the prior's norm, by its normal equations; 0 where
            factored, NaN where the time was up before.
        ended: One sentence on how it ended.
        seconds: Wall-clock time.
        settings: Prior, noise, memory, tolerances: all that is needed to compute it again.
    """

    psnr: tuple[float, ...]
    psnr_with_noise: tuple[float, ...] | None
    images: Tensor = field(repr=False)
    std: Tensor | None = field(repr=False)
    rank: tuple[int, ...] | None
    unknowns: int
    equations: int
    others: Others
    granted: tuple[str, ...]
    solved: bool
    residual: float
    ended: str
    seconds: float
    settings: dict[str, Any] = field(repr=False)


def reconstruction_limit(
    seen: Observation,
    images: Tensor,
    labels: Tensor | int,
    *,
    others: Others = "unknown",
    prior: Prior | None = None,
    options: LimitOptions | None = None,
    budget: Budget | None = None,
) -> Limit:
    """How well an attacker who searches perfectly near the truth would know each image of a step.

    The labels are granted. Batch normalisation in training mode uses the statistics of the images, which change with
    them; dropout counts as the identity; kinks are as they are at the truth.

    Args:
        seen: What leaked: network, parameters that shared a gradient, loss and normalisation. The gradients' values
            count only through their type.
        images: The true images `(C, H, W)` or `(B, C, H, W)`, in the observation's value range.
        labels: Class, or classes `(B,)`.
        others: "unknown": the attacker must find all images of the batch at once. "known": all but one, the adversary
            of differential privacy; each image is then a problem by itself, and its limit a true ceiling.
        prior: What the attacker believes about images; colour total variation, as Joint's, by default. Without a
            Jacobian its mean must be grey.
        options: Noise, memory, tolerances.
        budget: Time limit and progress report; none by default. A limit that it cut short is "at least".

    Raises:
        ValueError: If images or labels do not fit the observation, gradients are not finite, or a prior whose mean is
            not grey needs more memory than allowed.
        OutOfTime: If the time was up before anything was known.
        OutOfMemory: If the gradient's graph needs more memory than the budget allows.

    Example:
        >>> import torch
        >>> from leakage_audit import observe
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(128, 10)
        ... )
        >>> image, label = torch.rand(3, 6, 6), 3
        >>> limit = reconstruction_limit(observe(model, image, label), image, label)
        >>> limit.solved, limit.rank, limit.unknowns, limit.psnr[0] > 100
        (True, (108,), 108, True)
    """
    start = time.perf_counter()
    options, budget, prior = options or LimitOptions(), budget or Budget(), prior or TotalVariation()
    images = images[None] if images.ndim == 3 else images
    labels = torch.as_tensor(labels, device=images.device).reshape(-1)
    problem = _problem(seen, images, labels, others)
    if problem is not None:
        raise ValueError(problem)
    cuda = [seen.device] if seen.device.type == "cuda" else []
    held = in_double_precision(seen, budget, copies=1)
    with held as exact, single_blas(), torch.random.fork_rng(cuda), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(0)  # for networks that draw as they run
        step = Step.of(exact, images, labels, options)
        # A gradient to be differentiated twice, with the graph of its derivative.
        budget.require("the limit", 16 * footprint_of(step, alone=others == "known"))
        options = replace(options, max_memory_gb=min(options.max_memory_gb, budget.memory / 1e9))
        with budget.work(kind=PASS):
            std = noise_of(step, seen.dtype, options)
        found = [
            (linear, numbers, _solve(linear, truth.flatten(), prior, options, share))
            for linear, numbers, truth, share in _problems(step, std, others, options, budget)
        ]
    truth = step.images.flatten(1)
    picture = torch.cat([s.image for *_, s in found]).reshape(truth.shape)
    error = (picture - truth).square().mean(1)
    by_noise, spread = (_joined([getattr(s, name) for *_, s in found]) for name in ("noise_variance", "std"))
    ranks = [s.rank for *_, s in found if s.rank is not None]
    return Limit(
        psnr=_decibels(error),
        psnr_with_noise=None if by_noise is None else _decibels(error + by_noise.reshape(truth.shape).mean(1)),
        images=picture.reshape(step.images.shape),
        std=None if spread is None else spread.reshape(step.images.shape),
        rank=tuple(ranks) if len(ranks) == len(found) else None,
        unknowns=found[0][0].columns,
        equations=max(linear.rows for linear, *_ in found),
        others=others,
        granted=tuple(dict.fromkeys(name for _, numbers, _ in found for name in numbers)),
        solved=all(s.solved for *_, s in found),
        residual=max((s.residual for *_, s in found), key=lambda r: (math.isnan(r), r)),
        ended=next((s.ended for *_, s in found if not s.solved), found[-1][-1].ended),
        seconds=time.perf_counter() - start,
        settings={"others": others, "prior": type(prior).__name__, **asdict(options), "seconds": budget.seconds},
    )


def _problem(seen: Observation, images: Tensor, labels: Tensor, others: str) -> str | None:
    """Why there is no limit to compute, or None."""
    shape = (seen.batch_size, *seen.input_shape)
    if tuple(images.shape) != shape or tuple(labels.shape) != (seen.batch_size,):
        return f"need images {shape} and a class each, got {tuple(images.shape)} and {tuple(labels.shape)}"
    if others not in get_args(Others):
        return f"others must be one of {', '.join(get_args(Others))}, got {others!r}"
    if not torch.isfinite(images).all():
        return "the images hold NaN or infinite values"
    return None


def _problems(
    step: Step, std: dict[str, Tensor], others: Others, options: LimitOptions, budget: Budget
) -> Iterator[tuple[LinearizedGradient, list[str], Tensor, Budget]]:
    """Each linear problem with the names of what is granted, its true images and its share of the time."""

    def single(i: int) -> LinearizedGradient:
        return linearized(step.images[i, None], partial(step.of_one, i), {})

    def linearized(images: Tensor, gradient: Gradient, numbers: dict[str, Tensor]) -> LinearizedGradient:
        """Of one image or all, with the numbers that the gradient hides and an attacker is told."""
        footprint = footprint_of(step, alone=len(images) == 1)
        if numbers:
            known = dict.fromkeys(numbers, options.least_noise * (images - zero).norm())
            return LinearizedGradient(images, with_numbers(gradient, numbers), std | known, footprint, options)
        if len(images) == 1 or step.images_mix:
            return LinearizedGradient(images, gradient, std, footprint, options)
        return SeparableGradient(images, gradient, single, std, footprint, options)

    zero = step.seen.to_image(torch.zeros_like(step.images[:1]))

    def told(images: Tensor, gradient: Gradient, share: Budget, kind: str) -> tuple[LinearizedGradient, list[str]]:
        numbers = hidden_numbers(
            gradient, images, zero, std, options.hidden, options.numerics.difference, share, PASS + kind
        )
        with share.work(LINEARIZED, PASS + kind):
            return linearized(images, gradient, numbers), list(numbers)

    if others == "known":
        for i, image in enumerate(step.images):
            share = budget.share(1 / (len(step.images) - i))
            yield *told(image[None], partial(step.of_one, i), share, " of one"), image[None], share
        return
    yield *told(step.images, step.of_batch, budget, ""), step.images, budget


def _solve(linear: LinearizedGradient, truth: Tensor, prior: Prior, options: LimitOptions, budget: Budget) -> Solved:
    """With a dense Jacobian where it fits, otherwise without.

    Raises:
        ValueError: If it does not fit, and the prior cannot do without.
    """
    needed = bytes_needed(linear)
    fits = needed <= options.max_memory_gb * 1e9
    grey = torch.full_like(truth, GREY)
    around_grey = torch.allclose(prior.local_gaussian(grey.reshape(linear.shape)).mean, grey)
    if fits and (not around_grey or flops_needed(linear) <= options.max_dense_flops):
        return solve_dense(linear, truth, prior, options, budget)
    if not around_grey:
        raise ValueError(
            f"a prior whose mean is not grey needs a Jacobian, {needed / 1e9:.1f} GB here; allow it by max_memory_gb"
        )
    return solve_free(linear, truth, prior, options, budget)


def _decibels(error: Tensor) -> tuple[float, ...]:
    """PSNR of mean squared errors `(B,)`, peak 1."""
    return tuple((-10 * error.log10()).clamp(-PSNR_CAP, PSNR_CAP).tolist())


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if len(found) == len(parts) else None
