"""Whether the audit understands a step: its gradient must come out again, but for rounding."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leakage_audit.callbacks.capture.plain_training import MIXED, PlainTraining
from leakage_audit.options import Checked

PIECE = 2**16  # entries that are compared at a time


@dataclass(frozen=True)
class GradientCheck:
    """How the step's own gradient compares with the recomputed one.

    Attributes:
        scale: The factor that brings the recomputed gradient nearest to the step's.
        error: Norm of what remains, relative to the step's gradient.
        rest: The same for factor 1.
        tolerance: What rounding can explain.
        missing: Parameters with a gradient that the audited network does not have.
        decay: Whether what remains follows the weights: that is a term of the loss, whatever the type would round.
    """

    scale: float
    error: float
    rest: float
    tolerance: float
    missing: tuple[str, ...] = ()
    decay: bool = False

    @property
    def same(self) -> bool:
        """Equal to rounding."""
        return self.rest <= self.tolerance and not self.missing and not self.decay

    @property
    def parallel(self) -> bool:
        """Equal to rounding up to a positive factor (a scaled loss, a gradient clipped by hand)."""
        return self.error <= self.tolerance and self.scale > 0 and not self.missing and not self.decay

    def __str__(self) -> str:
        if self.same:
            return f"equals the recomputed gradient (relative difference {self.rest:.1e})"
        if self.missing:
            return f"includes parameters outside the audited network ({', '.join(self.missing[:3])})"
        if self.decay:
            return (
                f"differs from the recomputed gradient by {100 * self.rest:.3g} %, in the direction of the weights: is "
                "there an L2 term in the loss? Name `loss`, or leave the term to the optimiser's `weight_decay`"
            )
        if self.parallel:
            return (
                f"is {self.scale:.4g} times the recomputed gradient: is the loss scaled, are labels smoothed, or is "
                "the gradient clipped by hand?"
            )
        return (
            f"differs from the recomputed gradient by {100 * self.rest:.3g} %: is there label smoothing, mixup, an "
            "augmentation or another term of the loss in the training step? Name `forward`, `loss` or `unpack`"
        )


@dataclass(frozen=True)
class ReadStep:
    """A step whose gradient has been read.

    Attributes:
        gradients: The step's own, as an average over the window.
        check: How they compare with the recomputed ones.
        reason: In words, what training_step seems to do where they differ; empty if nothing is known.
    """

    gradients: dict[str, Tensor]
    check: GradientCheck
    reason: str = ""


@dataclass(frozen=True)
class CheckOptions(Checked):
    """Relative difference of two gradients that rounding can explain, by the coarsest type that the step computed in.

    Hundreds of roundings of an entry, but only two or three of bfloat16's (2⁻⁸): label smoothing of 0.04 changes a
    gradient by 0.04 and must not pass for rounding.

    Attributes:
        float64: Of float64.
        float32: Of float32.
        bfloat16: Of bfloat16, autocast included.
        float16: Of float16, autocast included.
        decay: Above this cosine with the weights, a difference beyond float32's is no rounding but a term of the loss,
            in any type. Rounding of n entries has a cosine of about 1/√n, an L2 term of 1.
    """

    float64: float = 1e-9
    float32: float = 1e-4
    bfloat16: float = 1e-2
    float16: float = 4e-3
    decay: float = 0.7

    def __post_init__(self) -> None:
        self.check(positive=("float64", "float32", "bfloat16", "float16", "decay"))

    def of(self, dtype: torch.dtype) -> float:
        """That of one of these types."""
        return getattr(self, str(dtype).removeprefix("torch."))


def compare(
    step: Mapping[str, Tensor],
    recomputed: Mapping[str, Tensor],
    compute: torch.dtype,
    options: CheckOptions = CheckOptions(),
    weights: Mapping[str, Tensor] | None = None,
) -> GradientCheck:
    """Compare the step's gradient with the recomputed one, in float64.

    Args:
        step: Gradients by name.
        recomputed: The same at the parameters that the audited network has.
        compute: The coarsest floating type in the forward pass.
        options: What rounding can explain.
        weights: At which both were taken, by the same names; None does not look for an L2 term.
    """
    missing = tuple(name for name in step if name not in recomputed)
    g2 = r2 = gr = rest = error = 0.0
    for g, r in _pieces(step, recomputed):
        g2, r2, gr = g2 + float(g @ g), r2 + float(r @ r), gr + float(g @ r)
        rest += float((g - r).square().sum())
    scale = gr / r2 if r2 > 0 else 1.0
    size = max(g2, 1e-300) ** 0.5
    for g, r in _pieces(step, recomputed):
        error += float((g - scale * r).square().sum())
    error, rest, tolerance = error**0.5 / size, rest**0.5 / size, options.of(compute)
    # What is more than the tolerance says so itself.
    hidden = weights is not None and not missing and options.float32 < min(error, rest) <= tolerance
    decay = hidden and _cosine(step, recomputed, weights or {}) > options.decay
    return GradientCheck(scale, error, rest, tolerance, missing, decay)


def _cosine(step: Mapping[str, Tensor], recomputed: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """Between what the step's gradient has beyond the recomputed one, and the weights."""
    product = difference = size = 0.0
    for (g, r), (_, w) in zip(_pieces(step, recomputed), _pieces(step, weights), strict=True):
        product += float((g - r) @ w)
        difference, size = difference + float((g - r).square().sum()), size + float(w.square().sum())
    return product / max(difference * size, 1e-300) ** 0.5


def _pieces(step: Mapping[str, Tensor], recomputed: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Both gradients in float64, a piece at a time: two whole copies would take as much memory as the step itself."""
    for name, gradient in step.items():
        if name in recomputed:
            pairs = zip(gradient.flatten().split(PIECE), recomputed[name].flatten().split(PIECE), strict=True)
            yield from ((g.double(), r.double()) for g, r in pairs)


def compute_type(trainer: Any, module: nn.Module) -> torch.dtype:
    """The coarsest floating type that the training step computes in."""
    if isinstance(trainer, PlainTraining):
        return trainer.precision_plugin.coarsest
    own = next(p.dtype for p in module.parameters() if p.is_floating_point())
    return MIXED.get(str(trainer.precision), own)


def without_factor(own: dict[str, Tensor], check: GradientCheck, length: int, loss_scale: float) -> dict[str, Tensor]:
    """The step's gradients without the factors that come with doing it by hand.

    By hand one may sum over the window, or divide by a number of batches that the last window falls short of, and a
    loop that scales its loss has not undone that before the step.

    Args:
        own: The step's own gradients.
        check: What says that they are a multiple of the recomputed ones.
        length: Of the window.
        loss_scale: By how much the loss is scaled.

    Returns:
        The gradients as an average over the window; as they are if the factor is no such one.
    """
    for factor in (1.0, loss_scale):
        divided_by = factor * length / check.scale
        whole = round(divided_by)
        if factor * length > 1 and whole >= 1 and abs(divided_by - whole) < check.tolerance * divided_by:
            return {name: g / check.scale for name, g in own.items()}
    return own
