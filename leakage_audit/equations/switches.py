"""A network's kinks as switches: which rectifiers are on, and which entry of a window is the largest, as unknowns.

With its switches given a network of rectifiers and poolings is smooth: a rectifier is `z (s + (1 − s) a)` with slope s
below zero and a = 1 where z > 0, max pooling is `Σ a_i z_i` over a window with a = 1 at the largest entry. Its
gradients are then smooth in the image and in a together, a counting as a number (docs/method/joint.md, section 5.16).
Nothing is read off the network: its operations are met as it runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from leakage_audit.equations.smoothed_kinks import windows_of
from leakage_audit.networks.activations import Activation

SLOPE = 0.01  # of a leaky rectifier that is not given one
FLAT = {"relu", "relu_"}
LEAKY = {"leaky_relu", "leaky_relu_"}
OTHERS = {"relu6", "hardtanh", "hardtanh_", "max_pool1d", "max_pool3d", "adaptive_max_pool2d"}  # no switches for them


@dataclass(frozen=True)
class Switches:
    """What decides a network's switches at some image.

    Attributes:
        margins: Of each switch; it is on where this is positive, `(k,)`.
        window: Number of the window that a switch belongs to, of whose switches one is on, `(k,)`; −1 of none.
    """

    margins: Tensor
    window: Tensor

    @property
    def on(self) -> Tensor:
        """1 where a switch is on and 0 where it is off, `(k,)`.

        >>> Switches(torch.tensor([-1.0, 2.0]), torch.tensor([-1, -1])).on
        tensor([0., 1.])
        """
        return (self.margins > 0).to(self.margins)


class GivenSwitches(TorchFunctionMode):
    """A context around one call of a network: its switches are met, and set where they are given.

    Args:
        on: Of each switch in the order in which they are met, `(k,)`, any number; None leaves them as they are.

    Attributes:
        others: Whether there were kinks that are no such switches.

    >>> z = torch.tensor([[-1.0, 2.0]])
    >>> with GivenSwitches() as met:
    ...     _ = torch.relu(z)
    >>> met.switches.margins
    tensor([-1.,  2.])
    >>> with GivenSwitches(torch.tensor([1.0, 0.5])):
    ...     torch.relu(z)
    tensor([[-1.,  1.]])
    """

    def __init__(self, on: Tensor | None = None) -> None:
        super().__init__()
        self._on, self._place, self._windows, self.others = on, 0, 0, False
        self._margins: list[Tensor] = []
        self._window: list[Tensor] = []

    @property
    def switches(self) -> Switches | None:
        """What was met; None if there was nothing, or other kinks too."""
        if self.others or not self._margins:
            return None
        return Switches(torch.cat(self._margins), torch.cat(self._window))

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation, by its switches if it has some."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in FLAT | LEAKY and isinstance(args[0], Tensor):
            numbers = [value for value in args[1:] if not isinstance(value, bool)]
            slope = 0.0 if name in FLAT else (*numbers, kwargs.get("negative_slope", SLOPE))[0]
            on = self._next(args[0], args[0].detach(), None)
            return func(*args, **kwargs) if on is None else args[0] * (slope + (1 - slope) * on)
        if name == "max_pool2d" and isinstance(args[0], Tensor):
            cut, shape = windows_of(*args, **kwargs)
            if cut is not None and cut.shape[-2] > 1:
                on = self._next(cut, *_margins(cut.detach()))
                return func(*args, **kwargs) if on is None else (cut * on).sum(-2).reshape(shape)
        self.others |= name in OTHERS or name == "max_pool2d"
        return func(*args, **kwargs)

    def _next(self, like: Tensor, margins: Tensor, window: Tensor | None) -> Tensor | None:
        if self._on is not None:
            start, self._place = self._place, self._place + like.numel()
            return self._on[start : self._place].reshape(like.shape)
        none = torch.full((like.numel(),), -1, device=like.device)
        self._margins.append(margins.flatten().clone())
        self._window.append(none if window is None else self._windows + window.flatten())
        self._windows += 0 if window is None else int(window.max()) + 1
        return None


def _margins(cut: Tensor) -> tuple[Tensor, Tensor]:
    """By how much entries of windows `(B, C, entries, positions)` exceed the largest other, and each one's window."""
    first, second = cut.topk(2, -2)[0].split(1, -2)
    margins = cut - torch.where(cut == first, second, first)
    number = torch.arange(first.numel(), device=cut.device).reshape(first.shape)
    return margins, number.expand_as(cut)


def slope_below(activation: Activation) -> float | None:
    """A rectifier's slope below zero; None for what is no rectifier.

    >>> from leakage_audit.networks.activations import from_function
    >>> slope_below(from_function("leaky_relu", (0.5,), {})), slope_below(from_function("relu6", (), {}))
    (0.5, None)
    """
    if not activation.name.startswith("leaky_relu(") and activation.name != "relu":
        return None
    return float(activation.derivative(torch.tensor([-1.0], dtype=torch.float64)))


def switched(activation: Activation, slope: float, on: Tensor) -> Activation:
    """A rectifier with its switches given.

    Args:
        activation: The rectifier.
        slope: Below zero.
        on: Of each of its inputs.
    """
    factor = slope + (1 - slope) * on
    return replace(activation, forward=lambda z: z * factor, derivative=lambda z: factor.expand_as(z), smooth=True)
