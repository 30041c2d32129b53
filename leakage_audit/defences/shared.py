"""Gradients on their way out, and what may be known of each entry.

Every mechanism is told as `shared = scale · gradient + error`: the factor of each parameter, and the standard deviation
of the error of each entry. Noise is an error of its own size; a rounded entry lies in an interval (`intervals`), which
counts as an error spread evenly over it; an entry that was put to zero errs by what was taken (`hidden`). Who knows the
mechanism knows these; the limit takes the errors as the gradient's noise.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from leakage_audit.interval import Interval
from leakage_audit.observation import Observation

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shared:
    """Gradients on their way out.

    Attributes:
        gradients: As they are now, by name; a name that is missing is not shared.
        scale: By which each gradient was multiplied.
        error: Standard deviation of each entry's error, shaped like the gradient, in the units of `gradients`;
            infinite where nothing is told.
        per_image: By how much each image's own gradient was multiplied before they were averaged, `(B,)`; None where
            images were not told apart.
        shift: What who knows adds to a gradient, shaped like it: to entries that were cut off, what is missing on
            average. None where a name is missing.
        intervals: In which a gradient's entries lie, as far as the last mechanism tells, in the units of `gradients`.

    >>> Shared.of({"w": torch.ones(2)}).error["w"]
    tensor([0., 0.])
    """

    gradients: dict[str, Tensor] = field(repr=False)
    scale: dict[str, float] = field(repr=False)
    error: dict[str, Tensor] = field(repr=False)
    per_image: Tensor | None = None
    shift: dict[str, Tensor] = field(default_factory=dict, repr=False)
    intervals: dict[str, Interval] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, gradients: Gradients, per_image: Tensor | None = None) -> "Shared":
        """Gradients to which nothing was done yet."""
        return cls(
            dict(gradients), dict.fromkeys(gradients, 1.0), {k: torch.zeros_like(g) for k, g in gradients.items()},
            per_image,
        )  # fmt: skip

    def scaled(self, factors: Mapping[str, float]) -> "Shared":
        """Every gradient times its factor; 1 leaves it bit for bit as it is."""
        gradients = {k: g if factors[k] == 1 else g * factors[k] for k, g in self.gradients.items()}
        scale = {k: self.scale[k] * factors[k] for k in gradients}
        error = {k: self.error[k] * factors[k] for k in gradients}
        shift = {k: s * factors[k] for k, s in self.shift.items() if k in gradients}
        intervals = {k: i.scaled(factors[k]) for k, i in self.intervals.items() if k in gradients}
        return replace(self, gradients=gradients, scale=scale, error=error, shift=shift, intervals=intervals)

    def changed(
        self, gradients: Gradients, error: Gradients, shift: Gradients | None = None,
        intervals: Mapping[str, Interval] | None = None,
    ) -> "Shared":  # fmt: skip
        """Other values, with further errors, independent of those before, and what is missing of them on average.

        Intervals that were known of the values before are known no more.
        """
        added = {k: torch.hypot(self.error[k], error[k].to(self.error[k])) for k in gradients}
        shifts = {k: s for k, s in self.shift.items() if k in gradients}
        shifts |= {k: s + shifts.get(k, 0) for k, s in (shift or {}).items()}
        scale, known = {k: self.scale[k] for k in gradients}, dict(intervals or {})
        return replace(self, gradients=dict(gradients), scale=scale, error=added, shift=shifts, intervals=known)

    def renamed(self, names: Mapping[str, str]) -> "Shared":
        """The same under other names, by the present ones; those that are not listed are left out."""
        gradients, scale, error, shift, intervals = (
            {names[k]: v for k, v in part.items() if k in names}
            for part in (self.gradients, self.scale, self.error, self.shift, self.intervals)
        )
        return Shared(gradients, scale, error, self.per_image, shift, intervals)  # type: ignore[arg-type]

    def seen_by(self, seen: Observation, knows: bool) -> Observation:
        """What an attacker sees in place of an undefended observation.

        Args:
            seen: The observation of the step before anything was done to its gradient.
            knows: Whether the attacker knows what was done: factors are then undone, and errors known to the entry.
        """
        if not knows:
            return replace(seen, gradients=self.gradients)
        undone = self.undone
        noise = {k: self.error[k] / self.scale[k] for k in undone}
        return replace(
            seen, gradients=undone, noise=noise if any(bool(e.any()) for e in noise.values()) else {},
            loss=seen.loss if self.per_image is None else WeightedLoss(seen.loss, tuple(self.per_image.tolist())),
            intervals={k: i.scaled(1 / self.scale[k]) for k, i in self.intervals.items()},
        )  # fmt: skip

    def attackers(self, seen: Observation) -> list[Observation]:
        """What is seen by who knows the defence, then by who does not; by one alone where there is nothing to know.

        Args:
            seen: As in `seen_by`.
        """
        return [self.seen_by(seen, knows) for knows in ((True,) if self.is_plain else (True, False))]

    @property
    def undone(self) -> dict[str, Tensor]:
        """The gradients with what is missing on average, their factors undone."""
        full = {k: g + self.shift[k] if k in self.shift else g for k, g in self.gradients.items()}
        return {k: g if self.scale[k] == 1 else g / self.scale[k] for k, g in full.items()}

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to know: no factor, no error."""
        scaled = any(s != 1 for s in self.scale.values()) or self.per_image is not None
        return not scaled and not any(bool(e.any()) for e in self.error.values())

    def relative_error(self, gradients: Gradients) -> float:
        """How far the shared gradient, its factors undone, is from what it was, as a share of its size."""
        missed, size, undone = 0.0, 0.0, self.undone
        for name, g in gradients.items():
            size += float(g.double().square().sum())
            got = undone[name].double() if name in undone else torch.zeros_like(g)
            missed += float((got - g).square().sum())
        return (missed / size) ** 0.5 if size > 0 else 0.0


@dataclass(frozen=True)
class WeightedLoss:
    """A mean of the images' losses in which image i counts `weights[i]` times.

    Its gradient is that of images whose gradients were each multiplied before they were averaged.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    weights: tuple[float, ...]

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The weighted mean."""
        each = [self.loss(s[None], y[None]) * w for s, y, w in zip(scores, labels, self.weights, strict=True)]
        return torch.stack(each).mean()


def hidden(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Errors of entries of which a mechanism hides the value: the root mean square of what it took, zero elsewhere.

    That an entry was put to zero, or cut off, still tells how large it may have been. Who knows the mechanism is
    granted this one number a parameter, lest the limit be lower than what an attacker can do who finds it out.

    >>> hidden(torch.tensor([3.0, 1.0, 5.0]), torch.tensor([0.0, 0.0, 5.0]), torch.tensor([True, True, False]))
    tensor([2.2361, 2.2361, 0.0000])
    """
    taken = (before - after)[mask]
    size = float(taken.double().square().mean().sqrt()) if len(taken) else 0.0
    return torch.zeros_like(before).masked_fill(mask, size)


def below(after: Tensor, mask: Tensor, std: Tensor, least: float) -> Interval:
    """Where entries lie that were put to zero because they were small, `mask`'s: within `least`, the smallest kept.

    >>> below(torch.tensor([0.0, -3.0, 2.0]), torch.tensor([True, False, False]), torch.zeros(3), 2.0).upper
    tensor([2., inf, inf])
    """
    bound = torch.full_like(after, math.inf).masked_fill(mask, least)
    return Interval(-bound, bound, std)


def beyond(before: Tensor, after: Tensor, mask: Tensor, std: Tensor, least: float = 0.0) -> Interval:
    """Where entries lie that were cut off, `mask`'s: at least so far out, and so far on average.

    Args:
        before: The gradient.
        after: What is shared of it.
        mask: Which entries were cut off.
        std: Of noise that was added before.
        least: Magnitude below which none was kept, where that is more than what is shared.

    >>> before, after = torch.tensor([3.0, -5.0, 1.0]), torch.tensor([1.0, -1.0, 1.0])
    >>> found = beyond(before, after, before.abs() > 1, torch.zeros(3))
    >>> found.lower, found.upper, found.total
    (tensor([1., -inf, -inf]), tensor([inf, -1., inf]), 8.0)
    """
    signs = after.sign().masked_fill(~mask, 0)
    lower = torch.where(signs > 0, after.clamp_min(least), -math.inf)
    upper = torch.where(signs < 0, after.clamp_max(-least), math.inf)
    return Interval(lower, upper, std, signs if mask.any() else None, float((signs * before).sum()))


def cut_off(before: Tensor, after: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is missing on average of entries that were cut off, by their signs, and the error that is left, `mask`'s.

    >>> before, after = torch.tensor([3.0, -5.0, 1.0]), torch.tensor([1.0, -1.0, 1.0])
    >>> cut_off(before, after, before.abs() > 1)
    (tensor([ 3., -3.,  0.]), tensor([1., 1., 0.]))
    """
    excess = ((before - after) * after.sign())[mask]
    mean = float(excess.mean()) if len(excess) else 0.0
    spread = float(excess.std(correction=0)) if len(excess) else 0.0
    return (after.sign() * mean).masked_fill(~mask, 0), torch.zeros_like(before).masked_fill(mask, spread)
