"""Mechanisms, one after the other, each checked: what is done to a gradient before it is shared."""

import inspect
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from leakage_audit.defences.shared import Gradients, Shared, hidden
from leakage_audit.options import recorded


class DefenceError(ValueError):
    """A mechanism did something that no gradient can be shared after; the message says which one and what."""


class Mechanism(ABC):
    """One thing that is done to a gradient.

    Attributes:
        needs_samples: Whether it works on each image's own gradient, before they are averaged.
        is_noise: Whether its error is noise, or none at all. Where it is not (rounding, entries that are left out), an
            attacker may know more than its size, and a limit that takes it for noise is "at least".

    Example:
        >>> class Halve(Mechanism):
        ...     def __call__(self, shared, generator):
        ...         return shared.scaled(dict.fromkeys(shared.gradients, 0.5))
        >>> Composition([Halve()]).share({"w": torch.ones(1)}).gradients["w"]
        tensor([0.5000])
    """

    needs_samples: ClassVar[bool] = False
    is_noise: ClassVar[bool] = True

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
    def is_noise(self) -> bool:
        """Whether every error is noise; of a plain callable nobody knows."""
        return all(getattr(one, "is_noise", False) for one in self.mechanisms)

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
        how = "; does it end without a return?" if after is None else ""
        raise DefenceError(f"{name} must return gradients by name, got {type(after).__name__}{how}")
    unknown = [k for k in after if k not in before]
    if unknown or not after:
        raise DefenceError(f"{name} must return gradients of {', '.join(before)}, got {', '.join(after) or 'none'}")
    for k, g in after.items():
        if not isinstance(g, Tensor) or g.shape != before[k].shape:
            shape = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
            raise DefenceError(
                f"{name} changes the shape of {k} from {tuple(before[k].shape)} to {shape}: every gradient must come "
                "back in its own shape, entries that are not shared as zeros, parameters that are not shared not at all"
            )
        wrong = ~torch.isfinite(g)
        if wrong.any():
            raise DefenceError(
                f"{name} returns NaN or infinite values for {k}: {int(wrong.sum())} of its {wrong.numel()} entries, "
                f"the first of them {float(g[wrong][0])} where the gradient is {float(before[k][wrong][0]):.3g}; does "
                "it divide by zero, or take a logarithm of it?"
            )
    return {k: after[k].to(before[k]) for k in before if k in after}


def mix(*numbers: int) -> int:
    """One seed of several; in 32 bits, since torch's generator for the CPU ignores all others."""
    return zlib.crc32(repr(numbers).encode())


def _dotted(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
