"""A layer's input from the gradient of its weights, once the derivative δ at its output is known.

`g = K(δ) h` is linear in the input h, and K is the same matrix K₀ for every channel of a group. Where K₀ has full
column rank, `h = K₀⁺g`, with no need of the layer's output. A fully connected layer has `K₀ = δᵀ`, with a column for
each vector that it is fed, one or the tokens of a transformer; so has a convolution that cuts its input into patches.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.networks.layer_types import SpatialLayer, type_of
from leakage_audit.options import Checked


@dataclass(frozen=True)
class InputOptions(Checked):
    """When an input counts as found.

    Attributes:
        determined: Singular values of K₀ below this share of the largest count as zero; float32 noise of 1e-7 grows to
            at most 1e-3.
        consistent: Relative residual of `K₀ h = g` above which δ was wrong, or the gradient is too noisy to tell:
            rounding leaves 1e-7, a wrong δ a residual of order one.
        largest: Entries of the largest K₀, 240 MB.
        range: Rows of a gradient with several positions are weighed by their size, which is that of their rounding, but
            for those smaller than this share of the typical one: noise of other kinds is no smaller there.
    """

    determined: float = 1e-4
    consistent: float = 1e-4
    largest: float = 3e7
    range: float = 1e-3

    def __post_init__(self) -> None:
        self.check(positive=("consistent",), not_negative=("largest",), share=("determined",))


@dataclass(frozen=True)
class PartialInput:
    """What is known of an input: `basisᵀ h_c = value_c` for each channel c.

    Attributes:
        value: `(channels, r)`; h itself, `(channels, positions)`, where there is no basis.
        noise: Standard deviation of each entry of `value`.
        basis: The r directions in which every channel is known, `(positions, r)`; None where h is known altogether.
        arrangement: Between the layer's input and channels × positions.
    """

    value: Tensor
    noise: Tensor
    basis: Tensor | None
    arrangement: Arrangement

    def of(self, h: Tensor) -> Tensor:
        """What `value` would be for another input, without the batch."""
        h = self.arrangement.matrix(h)
        return h if self.basis is None else h @ self.basis


def solve_for_input(
    layer: nn.Module,
    shape: tuple[int, ...],
    delta: Tensor,
    gradient: Tensor,
    rounding: float,
    options: InputOptions = InputOptions(),
) -> PartialInput | None:
    """Solve `K h = g`.

    Args:
        layer: A convolution or fully connected layer, of a type in `layer_types.MODULES`.
        shape: Of its input, `(C, H, W)` or `(C,)`.
        delta: The derivative at its output, `(c_out, H', W')` or `(out,)`.
        gradient: Of its weights.
        rounding: Relative error of `gradient`.
        options: When the input counts as found.

    Returns:
        None where the gradient does not fit δ or tells nothing, and for layers that are not understood: padding other
        than with zeros, deficient ones with several groups, and any too large.
    """
    arrangement = Arrangement.of(layer, shape)
    if arrangement.one_block:
        k0 = delta.reshape(-1, delta.shape[-1]).T if isinstance(layer, nn.Linear) else delta.flatten(1)
        if k0.numel() > options.largest:
            return None
        g = gradient.flatten(1)
        typical = float(g.square().mean().sqrt())
        if k0.shape[1] > 1 and typical:
            weights = typical / g.square().mean(1, keepdim=True).sqrt().clamp_min(options.range * typical)
            k0, g = weights * k0, weights * g
        return _solve(k0[None], g[None], rounding, options, arrangement)
    kind = type_of(layer)
    assert kind is not None  # only such are watched
    entries = gradient.numel() // shape[0] * math.prod(shape[1:])
    if not issubclass(kind, SpatialLayer) or len(shape) != 3 or entries > options.largest or kind.refusal(layer, shape):
        return None
    read = kind.read("", layer, shape, gradient)
    blocks = torch.stack([torch.from_numpy(read.gradient_block(delta[None], g)) for g in range(len(read.block_places))])
    g = gradient.flatten()[torch.from_numpy(read.block_places).to(gradient.device)]
    return _solve(blocks.to(delta), g, rounding, options, arrangement)


def _solve(
    k0: Tensor, g: Tensor, rounding: float, options: InputOptions, arrangement: Arrangement
) -> PartialInput | None:
    """`K₀ (groups, rows, positions)` and `g (groups, rows, channels)` to the channels of all groups in a row."""
    rows, positions = k0.shape[1:]
    squares, basis = torch.linalg.eigh(k0.mT @ k0)
    kept = squares > options.determined**2 * squares.amax(1, keepdim=True)
    h = basis.mT @ (k0.mT @ g) / squares[..., None].clamp_min(torch.finfo(g.dtype).tiny)  # in the basis
    error = rounding * g.square().mean(1, keepdim=True).sqrt()  # of the gradient's entries, `(groups, 1, channels)`
    if bool(kept.all()):
        h = basis @ h
        if rows > positions:
            rest = (g - k0 @ h).square().sum(1, keepdim=True)
            if float(rest.sum()) > options.consistent**2 * float(g.square().sum()):
                return None
            error = torch.maximum(error, (rest / (rows - positions)).sqrt())
        spread = (basis.square() / squares[:, None]).sum(2, keepdim=True).sqrt()
        # δ too is rounded, by the same for every row that it enters: this error does not average out.
        noise = torch.maximum(error * spread, rounding * h.square().mean(1, keepdim=True).sqrt())
        return PartialInput(h.mT.flatten(0, 1), noise.mT.flatten(0, 1), None, arrangement)
    known = kept[0]
    if len(k0) > 1 or not known.any():
        return None
    spread = squares[0, known].rsqrt()[:, None]
    return PartialInput(h[0, known].T, (error[0] * spread).T, basis[0][:, known], arrangement)
