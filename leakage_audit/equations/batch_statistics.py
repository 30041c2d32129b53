"""Layers' common input below batch normalisation in training mode, by a fixed point.

What couples the images there are sums that were shared, so that with x̂ and σ a normalisation's derivative is known
(docs/method.md, section 10, (M80)). Both follow from the input sought, z = W h: from a first guess, the linear problem
of `input_from_gradient` gives h, h gives x̂ and σ, and so on. The terms in x̂ are of the order of one over the root of
the entries that are summed, so the map contracts, by 10 to 100 a step on ResNets. The residual of the linear problem at
the fixed point is the certificate, as it is where δ is known.

Two things the statistics forget, and are found elsewhere: *the common size* of h, and *a constant* on positions that
all windows read by one and the same tap, as with stride two, where the linear problem has a kernel of one dimension. No
residual tells of either (`forgotten_by_statistics`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.equations.input_from_gradient import (
    InputOptions,
    PartialInput,
    Reader,
    ask_for_normal_equations,
    gradient_system,
)
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class StatisticsOptions(Checked):
    """How the fixed point is sought.

    Attributes:
        steps: Most steps; 4 to 22 were needed, the most after training.
        falls: Factor by which the residual must fall within `patience` steps.
        patience: Steps that it is given for that.
        kernel: Singular values of the linear problem below this share of the largest are zero.
    """

    steps: int = 40
    falls: float = 0.7
    patience: int = 4
    kernel: float = 1e-3

    def __post_init__(self) -> None:
        self.check(positive=("steps", "falls", "patience", "kernel"))


@dataclass(frozen=True)
class UpToConstants:
    """An input below batch statistics.

    Attributes:
        input: Each channel as low as it can be without becoming negative, where a constant is open.
        constant: The positions, of all images in a row, on which every channel has a constant of its own that the
            gradients do not tell, `(B · positions,)`; None where they tell it.
    """

    input: PartialInput
    constant: Tensor | None


@dataclass(frozen=True)
class NormalisedReader:
    """A layer, followed by batch normalisation in training mode, that reads the input sought.

    Attributes:
        layer: A convolution without a bias that matters.
        norm: The normalisation.
        derivative: ∂L/∂y at the normalisation's output, `(B, c, H', W')`.
        gradient: Of the layer's weight.
        shift_gradient: ∂L/∂β, `(c,)`.
        scale_gradient: ∂L/∂γ, `(c,)`.
    """

    layer: nn.Module
    norm: _BatchNorm
    derivative: Tensor
    gradient: Tensor
    shift_gradient: Tensor
    scale_gradient: Tensor

    def delta(self, z: Tensor | None) -> Tensor:
        """∂L/∂z by (M80) at outputs z of the layer; without them x̂ is left out and σ the size of the filters."""
        axes, shape = (0, *range(2, self.derivative.ndim)), (1, -1, *[1] * (self.derivative.ndim - 2))
        count = self.derivative.numel() / self.derivative.shape[1]
        rest = self.derivative - self.shift_gradient.view(shape) / count
        if z is None:
            weight = self.layer.get_parameter("weight").detach()
            deviation = weight.flatten(1).norm(dim=1)
        else:
            mean, deviation = z.mean(axes, keepdim=True), (z.var(axes, unbiased=False) + self.norm.eps).sqrt()
            rest = rest - (z - mean) / deviation.view(shape) * self.scale_gradient.view(shape) / count
        scale = 1 / deviation if self.norm.weight is None else self.norm.weight.detach() / deviation
        return rest * scale.view(shape)


def solve_through_statistics(
    readers: Sequence[NormalisedReader],
    shape: tuple[int, ...],
    rounding: float,
    inputs: InputOptions,
    options: StatisticsOptions,
    budget: Budget,
    begin: Tensor | None = None,
) -> UpToConstants | None:
    """The input of all images, of any common size; of its own if it begins there.

    Batch statistics forget the size but for the ε that is added to a variance, so that a solution of another size has a
    residual of ε relative to the variance.

    Args:
        readers: The layers that are fed the input; all of them.
        shape: Of one image's input, a rectifier's output, `(C, H, W)`.
        rounding: Relative error of the gradients.
        inputs: When an input counts as found.
        options: How the fixed point is sought.
        budget: Limits of time and memory.
        begin: The input as far as it is known, `(B, C, H, W)`.

    Returns:
        None if a layer is not understood, if the kernel has more than one dimension, or if no fixed point is reached.

    Raises:
        OverBudget: If there is not enough time or memory for a step.
    """
    batch, arrangement = len(readers[0].derivative), Arrangement(shape, tokens=isinstance(readers[0].layer, nn.Linear))
    with torch.no_grad():
        deltas = [reader.delta(None if begin is None else reader.layer(begin)) for reader in readers]
    residuals: list[float] = []
    for _ in budget.steps(options.steps, "batch statistics"):
        systems = [
            gradient_system(Reader(r.layer, d, r.gradient), arrangement, inputs)
            for r, d in zip(readers, deltas, strict=True)
        ]
        if any(system is None or len(system[0]) > 1 for system in systems):
            return None
        k = torch.cat([system[0][0] for system in systems if system is not None])
        g = torch.cat([system[1][0] for system in systems if system is not None])
        ask_for_normal_equations(budget, *k.shape)
        solved = _positive_solution(k, g, options.kernel)
        if solved is None:
            return None
        h, spread, constant = solved
        residual = float((k @ h - g).norm() / g.norm())
        done = len(residuals) > options.patience and residual > options.falls * residuals[-options.patience]
        residuals.append(residual)
        if done or residual < rounding:
            break
        maps = h.T.reshape(len(h.T), batch, -1).transpose(0, 1).reshape(batch, *shape)
        with torch.no_grad():
            deltas = [reader.delta(reader.layer(maps)) for reader in readers]
    if not residuals or residuals[-1] > inputs.consistent:
        return None
    size = float(h.square().mean().sqrt())
    error = max(residuals[-1], rounding) * float(g.square().mean().sqrt())
    noise = (error * spread).clamp_min(max(residuals[-1], rounding) * size)
    whole = PartialInput(h.T.contiguous(), noise[:, None].expand_as(h).T.contiguous(), None, arrangement)
    return UpToConstants(whole, constant)


def _positive_solution(k: Tensor, g: Tensor, kernel: float) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """`h ≥ 0` with `k h = g`, `(positions, channels)`, how each position enlarges errors, and where k has a kernel."""
    squares, basis = torch.linalg.eigh(k.T @ k)
    kept = squares > kernel**2 * squares[-1]
    if not math.isfinite(float(squares[-1])) or int((~kept).sum()) > 1:
        return None
    h = (basis[:, kept] / squares[kept]) @ (basis[:, kept].T @ (k.T @ g))
    spread, on = (basis[:, kept].square() / squares[kept]).sum(1).sqrt(), None
    if not bool(kept.all()):
        free = basis[:, ~kept][:, 0]
        free = free * free.sum().sign()
        on = free > 0.3 * free.max()
        h = h + free[:, None] * (-h[on] / free[on, None]).amax(0)
    return h.clamp_min(0), spread, on
