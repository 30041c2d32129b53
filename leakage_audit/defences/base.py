"""What is done to a gradient before it is shared: mechanisms, one after the other, and what may be known of each entry.

Every mechanism is told as `shared = scale · gradient + error`: the factor of each parameter, and the standard deviation
of the error of each entry. Noise is an error of its own size; a rounded entry lies in an interval, which counts as an
error spread evenly over it; an entry that was put to zero errs by what was taken (`hidden`). An attacker who knows the
mechanism knows these; the limit takes them as the gradient's noise.
"""

import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from leakage_audit.observation import Observation
from leakage_audit.options import recorded

Gradients = Mapping[str, Tensor]


class DefenceError(ValueError):
    """A mechanism did something that no gradient can be shared after; the message says which one and what."""


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

    >>> Shared.of({"w": torch.ones(2)}).error["w"]
    tensor([0., 0.])
    """

    gradients: dict[str, Tensor] = field(repr=False)
    scale: dict[str, float] = field(repr=False)
    error: dict[str, Tensor] = field(repr=False)
    per_image: Tensor | None = None

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
        return replace(self, gradients=gradients, scale=scale, error={k: self.error[k] * factors[k] for k in gradients})

    def changed(self, gradients: Gradients, error: Gradients) -> "Shared":
        """Other values, with further errors, independent of those before."""
        added = {k: torch.hypot(self.error[k], error[k].to(self.error[k])) for k in gradients}
        return replace(self, gradients=dict(gradients), scale={k: self.scale[k] for k in gradients}, error=added)

    def renamed(self, names: Mapping[str, str]) -> "Shared":
        """The same under other names, by the present ones; those that are not listed are left out."""
        gradients, scale, error = (
            {names[k]: v for k, v in part.items() if k in names} for part in (self.gradients, self.scale, self.error)
        )
        return Shared(gradients, scale, error, self.per_image)  # type: ignore[arg-type]

    def seen_by(self, seen: Observation, knows: bool) -> Observation:
        """What an attacker sees in place of an undefended observation.

        Args:
            seen: The observation of the step before anything was done to its gradient.
            knows: Whether the attacker knows what was done: factors are then undone, and errors known to the entry.
        """
        if not knows:
            return replace(seen, gradients=self.gradients)
        undone = {k: g if self.scale[k] == 1 else g / self.scale[k] for k, g in self.gradients.items()}
        noise = {k: self.error[k] / self.scale[k] for k in undone}
        return replace(
            seen, gradients=undone, noise=noise if any(bool(e.any()) for e in noise.values()) else {},
            loss=seen.loss if self.per_image is None else WeightedLoss(seen.loss, tuple(self.per_image.tolist())),
        )  # fmt: skip

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to know: no factor, no error."""
        scaled = any(s != 1 for s in self.scale.values()) or self.per_image is not None
        return not scaled and not any(bool(e.any()) for e in self.error.values())

    def relative_error(self, gradients: Gradients) -> float:
        """How far the shared gradient, its factors undone, is from what it was, as a share of its size."""
        missed = size = 0.0
        for name, g in gradients.items():
            size += float(g.double().square().sum())
            got = self.gradients[name].double() / self.scale[name] if name in self.gradients else torch.zeros_like(g)
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


class Mechanism(ABC):
    """One thing that is done to a gradient.

    Attributes:
        needs_samples: Whether it works on each image's own gradient, before they are averaged.

    Example:
        >>> class Halve(Mechanism):
        ...     def __call__(self, shared, generator):
        ...         return shared.scaled(dict.fromkeys(shared.gradients, 0.5))
        >>> Composition([Halve()]).share({"w": torch.ones(1)}).gradients["w"]
        tensor([0.5000])
    """

    needs_samples: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """The gradients after it, with what may be known of them; random numbers come from `generator`, on the CPU."""


class Composition:
    """Mechanisms in the order in which they are written.

    Args:
        mechanisms: Each a `Mechanism`, or any callable from gradients by name to gradients by name.
        seed: Of whatever they draw.

    Raises:
        TypeError: If one is not callable.
        ValueError: If per-sample clipping does not come first.

    >>> from leakage_audit.defences import Clip, GaussianNoise
    >>> shared = Composition([Clip(1.0), GaussianNoise(0.1)]).share({"w": torch.tensor([3.0, 4.0])})
    >>> shared.scale["w"], float(shared.error["w"][0])
    (0.2, 0.10000000149011612)
    """

    def __init__(self, mechanisms: Sequence[Mechanism | Callable[..., Any]], seed: int = 0) -> None:
        self.mechanisms, self.seed = list(mechanisms), seed
        for one in mechanisms:
            if not callable(one) or isinstance(one, type):
                raise TypeError(f"a mechanism must be a callable from gradients to gradients, got {one!r}")
        if any(getattr(one, "needs_samples", False) for one in self.mechanisms[1:]):
            raise ValueError("per-sample clipping must come first: what is averaged cannot be taken apart again")

    @cached_property
    def needs_samples(self) -> bool:
        """Whether the first mechanism works on each image's own gradient."""
        return bool(self.mechanisms) and getattr(self.mechanisms[0], "needs_samples", False)

    @property
    def settings(self) -> list[Any]:
        """The mechanisms as a record holds them."""
        return [_dotted(one) if inspect.isroutine(one) else recorded(one) for one in self.mechanisms]

    def share(self, gradients: Gradients, *draw: int) -> Shared:
        """The gradients as they would be shared.

        Args:
            gradients: By name; of one image, or averaged over several.
            draw: Numbers that tell this draw from others of the same seed.

        Raises:
            DefenceError: If a mechanism adds parameters, changes shapes, or returns what is not finite.
        """
        return self.share_from(Shared.of(gradients), *draw)

    def share_samples(self, samples: Gradients, *draw: int) -> Shared:
        """The same from each image's own gradient by parameter, `(B, …)`, where the first mechanism needs that.

        Raises:
            DefenceError: See `share`.
        """
        first: Any = self.mechanisms[0]
        return self.share_from(first.reduce(samples), *draw)

    def share_from(self, shared: Shared, *draw: int) -> Shared:
        """The same for gradients of which something is known already; see `share`."""
        generator = torch.Generator().manual_seed(mix(self.seed, *draw))
        for one in self.mechanisms:
            shared = apply(one, shared, generator)
        return shared


def apply(mechanism: Mechanism | Callable[..., Any], shared: Shared, generator: torch.Generator) -> Shared:
    """One mechanism, checked; of a plain callable it is only known which entries it put to zero.

    Raises:
        DefenceError: See `Composition.share`.
    """
    name = getattr(mechanism, "__name__", type(mechanism).__name__)
    before = shared.gradients
    if isinstance(mechanism, Mechanism):
        found = mechanism(shared, generator)
    else:
        given = mechanism({k: g.clone() for k, g in before.items()})
        gradients = checked(name, before, given)
        error = {k: hidden(before[k], g, (g == 0) & (before[k] != 0)) for k, g in gradients.items()}
        found = shared.changed(gradients, error)
    checked(name, before, found.gradients)
    return found


def checked(name: str, before: Gradients, after: Any) -> dict[str, Tensor]:
    """Gradients that came back from something called `name`, in the order and type in which they went in.

    Raises:
        DefenceError: If there are others, shapes have changed, or one is not finite.
    """
    if not isinstance(after, Mapping):
        raise DefenceError(f"{name} must return gradients by name, got {type(after).__name__}")
    unknown = [k for k in after if k not in before]
    if unknown or not after:
        raise DefenceError(f"{name} must return gradients of {', '.join(before)}, got {', '.join(after) or 'none'}")
    for k, g in after.items():
        if not isinstance(g, Tensor) or g.shape != before[k].shape:
            shape = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
            raise DefenceError(f"{name} changes the shape of {k} from {tuple(before[k].shape)} to {shape}")
        if not torch.isfinite(g).all():
            raise DefenceError(f"{name} returns NaN or infinite values for {k}")
    return {k: after[k].to(before[k]) for k in before if k in after}


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


def mix(*numbers: int) -> int:
    """One seed of several; in 32 bits, since torch's generator for the CPU ignores all others."""
    return zlib.crc32(repr(numbers).encode())


def _dotted(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
