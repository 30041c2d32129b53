"""Rectifiers and max pooling of any network, rounded off as far as their inputs are uncertain.

Which unit is on, or which entry of a window is the largest, is a choice that an uncertain image does not settle. With
the inputs' standard deviations σ over likely images each operation is replaced by its mean: a rectifier by
`z Φ(z/σ) + σ φ(z/σ)`, pooling by `τ log Σ exp(z/τ)` with τ = 0.83 σ, which has a Gaussian's odds for two entries
(docs/method.md, section 5.12). Nothing is read off the network: its operations are met as it runs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ODDS = 0.83  # √2/1.7: the logistic distribution that is closest to the difference of two Gaussian entries
LEAST = 1e-9  # of σ, where no image moves the input


def _rectified(z: Tensor, width: Tensor) -> Tensor:
    """E max(z + σ ε, 0)."""
    t = z / width
    return z * torch.special.ndtr(t) + width * (-t.square() / 2).exp() / math.sqrt(2 * math.pi)


def _leaky(z: Tensor, width: Tensor, negative_slope: float = 0.01) -> Tensor:
    return negative_slope * z + (1 - negative_slope) * _rectified(z, width)


def _clipped(z: Tensor, width: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    return min_val + _rectified(z - min_val, width) - _rectified(z - max_val, width)


RECTIFIERS: dict[str, Callable[..., Tensor]] = {
    "relu": _rectified,
    "relu_": _rectified,
    "relu6": lambda z, width: _clipped(z, width, 0.0, 6.0),
    "hardtanh": _clipped,
    "leaky_relu": _leaky,
    "leaky_relu_": _leaky,
}


class SmoothedKinks(TorchFunctionMode):
    """A context around a network's calls: first `watch`ed ones, at likely images, then smoothed ones.

    >>> z = torch.tensor([[-1.0, 0.0, 2.0]])
    >>> kinks = SmoothedKinks()
    >>> for move in (-0.1, 0.1):
    ...     with kinks:
    ...         _ = torch.relu(z + move)
    >>> kinks.settle()
    1
    >>> with kinks:
    ...     [round(float(value), 3) for value in torch.relu(z)[0]]
    [0.0, 0.056, 2.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self._place, self._depth = 0, 0
        self._seen: list[list[Tensor]] = []  # of each operation, its inputs
        self._widths: list[Tensor] | None = None

    def __enter__(self) -> "SmoothedKinks":
        if not self._depth:
            self._place = 0
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *problem: object) -> None:
        self._depth -= 1
        super().__exit__(*problem)

    def settle(self) -> int:
        """End the watch: σ of every input is known; of how many operations."""
        self._widths = [torch.stack(inputs).std(0).clamp_min(LEAST) for inputs in self._seen]
        self._seen = []
        return len(self._widths)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation, smoothed if it has kinks."""
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in RECTIFIERS and isinstance(args[0], Tensor):
            width = self._width(args[0])
            if width is None:
                return func(*args, **kwargs)
            kwargs.pop("inplace", None)
            numbers = [value for value in args[1:] if not isinstance(value, bool)]
            return RECTIFIERS[name](args[0], width, *numbers, **kwargs)
        if name == "max_pool2d" and isinstance(args[0], Tensor):
            windows, shape = windows_of(*args, **kwargs)
            if windows is not None:
                width = self._width(windows - windows.mean(-2, keepdim=True))
                if width is not None:
                    tau = ODDS * width.square().mean(-2, keepdim=True).sqrt()
                    return (tau * (windows / tau).logsumexp(-2, keepdim=True)).reshape(shape)
        return func(*args, **kwargs)

    def _width(self, z: Tensor) -> Tensor | None:
        place, self._place = self._place, self._place + 1
        if self._widths is not None:
            return self._widths[place]
        if place == len(self._seen):
            self._seen.append([])
        self._seen[place].append(z.detach().clone())
        return None


def windows_of(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor | None, tuple[int, ...]]:
    """Entries of each window, `(B, C, k·k, positions)`, and the shape of what pooling makes of them."""
    if return_indices or ceil_mode or x.ndim != 4:
        return None, ()
    b, c, height, width = x.shape
    k, s, p, d = (
        (v, v) if isinstance(v, int) else tuple(v) for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    if any(p):  # padded places never are the largest
        x = F.pad(x, (p[1], p[1], p[0], p[0]), value=-1e3)
    rows, columns = (
        (size + 2 * pad - step * (kernel - 1) - 1) // stride_ + 1
        for size, pad, step, kernel, stride_ in zip((height, width), p, d, k, s, strict=True)
    )
    cut = F.unfold(x, k, d, 0, s).reshape(b, c, k[0] * k[1], rows * columns)
    return cut, (b, c, rows, columns)
