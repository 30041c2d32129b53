"""Lemma 3.1 under noise of known size: the derivative and the input of the last layer that fit its gradient best.

The gradients of one image at a fully connected layer with a bias are one matrix of rank one, `[∂L/∂W, ∂L/∂b] =
δ [xᵀ, 1]`. With the variance of each entry known, δ and x are its weighted least-squares fit, by alternating between
the two (Gabriel & Zamir 1979); entries of which nothing is known have weight zero. The bias column alone would settle
how size is shared out between δ and x; where it is noisy, the loss does better: δ = ∂loss/∂scores at `W x + b`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.layerwise.last_layer import LastLayer, last_layer
from leakage_audit.observation import Observation
from leakage_audit.options import Checked


@dataclass(frozen=True)
class RankOneOptions(Checked):
    """How the fit is made.

    Attributes:
        rounds: Most alternations; from the singular vectors a handful suffices, with many missing entries some dozens.
        settled: Relative change of δ below which they end.
        least: Relative standard deviation of an entry, added to its own: rounding.
        reach: Standard deviations of the scale around the bias column's within which the loss is asked.
        scales: Scales tried there.
    """

    rounds: int = 100
    settled: float = 1e-10
    least: float = 1e-7
    reach: float = 4.0
    scales: int = 401

    def __post_init__(self) -> None:
        self.check(positive=("rounds", "settled", "least", "reach", "scales"))


@dataclass(frozen=True)
class NoisyLastLayer:
    """What a noisy gradient of the last layer tells.

    Attributes:
        last: The layer.
        delta: ∂L/∂z, `(classes,)`.
        features: The layer's input, `(features,)`.
        std: Standard deviation of each feature; infinite where nothing is known of it.
        delta_error: Relative standard deviation of δ.
    """

    last: LastLayer
    delta: Tensor
    features: Tensor
    std: Tensor
    delta_error: float


def fit_last_layer(seen: Observation, options: RankOneOptions = RankOneOptions()) -> NoisyLastLayer | None:
    """Fit δ and x to one image's gradient of the last layer.

    Args:
        seen: What leaked of one image, in float64, with its `noise`.
        options: How the fit is made.

    Returns:
        None where there is no last fully connected layer with weights and a bias, or its gradients hold nothing.
    """
    last = last_layer(seen)
    if seen.batch_size > 1 or last is None or last.weight_gradient is None or last.delta is None:
        return None
    matrix = torch.cat([last.weight_gradient, last.delta[:, None]], 1)
    least = options.least * float(matrix.square().mean().sqrt())
    noise = torch.cat([_noise(seen, last, "weight"), _noise(seen, last, "bias")[:, None]], 1).hypot(
        matrix.new_tensor(least)
    )
    weights = torch.where(noise.isfinite(), noise.pow(-2), 0.0)
    if not (weights[:, -1].any() and (matrix * (weights > 0)).any()):
        return None
    delta, y = _rank_one(matrix, weights / weights.max(), options)
    if not y[-1].abs() > 0:
        return None
    power_x, power_d = (weights * y.square()).sum(1), (weights * delta.square()[:, None]).sum(0)
    delta, y, t = delta * y[-1], y / y[-1], y[-1]
    x_std, scale_std = (power_d * t**2).rsqrt(), float((power_d[-1] * t**2).rsqrt())
    d_std = float((power_x / t**2).rsqrt().nan_to_num(posinf=0.0).square().sum().sqrt() / delta.norm())
    scale = _scale(seen, last, delta, y[:-1], scale_std, options)
    return NoisyLastLayer(last, delta * scale, y[:-1] / scale, x_std[:-1], max(d_std, options.least))


def _noise(seen: Observation, last: LastLayer, kind: str) -> Tensor:
    name = last.parameter(kind)
    g = seen.gradients[name]
    return seen.noise[name].to(g) if name in seen.noise else torch.zeros_like(g)


def _rank_one(matrix: Tensor, weights: Tensor, options: RankOneOptions) -> tuple[Tensor, Tensor]:
    """Vectors d and y whose product fits the matrix best, each entry by its weight."""
    d = torch.linalg.svd(matrix * (weights > 0), full_matrices=False)[0][:, 0]
    d = d if d @ matrix[:, -1] >= 0 else -d
    y = matrix[0]
    for _ in range(options.rounds):
        y = _ratio((weights * d[:, None] * matrix).sum(0), (weights * d.square()[:, None]).sum(0))
        new = _ratio((weights * y * matrix).sum(1), (weights * y.square()).sum(1))
        new = new / new.norm().clamp_min(torch.finfo(new.dtype).tiny)
        change, d = float((new - d).norm()), new
        if change < options.settled:
            break
    return d, _ratio((weights * d[:, None] * matrix).sum(0), (weights * d.square()[:, None]).sum(0))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 0.0)


def _scale(seen: Observation, last: LastLayer, delta: Tensor, x: Tensor, std: float, options: RankOneOptions) -> float:
    """The factor of δ at which it is the loss's own derivative, within what the bias column leaves open."""
    if not seen.class_targets or std <= options.least:
        return 1.0
    label = delta.argmin().reshape(1) if seen.labels is None else seen.labels
    factors = torch.exp(torch.linspace(-1, 1, options.scales, dtype=delta.dtype) * min(options.reach * std, 3.0))
    bias = torch.zeros_like(delta) if last.bias is None else last.bias
    misfits = []
    for t in factors.to(delta):
        scores = (last.weight @ x / t + bias).requires_grad_()
        with torch.enable_grad():
            found = torch.autograd.grad(seen.loss(scores[None], label), scores)[0]
        misfits.append(float((found - t * delta).norm() / (t * delta).norm()))
    return float(factors[int(torch.tensor(misfits).argmin())])
