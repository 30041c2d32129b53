"""Lemma 3.1 under noise of known size: the derivative and the input of the last layer that fit its gradient best.

The gradients of one image at a fully connected layer with a bias are one matrix of rank one, `[∂L/∂W, ∂L/∂b] =
δ [xᵀ, 1]`. With the variance of each entry known, a direction a of δ and `y = (δ·a) [x, 1]` are its weighted
least-squares fit, by alternating between the two (Gabriel & Zamir 1979); entries of which nothing is known have weight
zero. How size is shared out between δ and x is known from the bias column alone, and under much noise not at all: then
y is an equation in the image as it stands, with δ the loss's own derivative.
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
        settled: Change of the direction below which they end.
        least: Relative standard deviation of an entry, added to its own: rounding.
        straight: Relative standard deviation of the bias column's scale up to which δ and x count as known, which
            makes for straighter equations than y.
    """

    rounds: int = 100
    settled: float = 1e-10
    least: float = 1e-7
    straight: float = 1e-3

    def __post_init__(self) -> None:
        self.check(positive=("rounds", "settled", "least", "straight"))


@dataclass(frozen=True)
class NoisyLastLayer:
    """What a noisy gradient of the last layer tells.

    Attributes:
        last: The layer.
        direction: a, of δ, `(classes,)`, of length 1.
        product: (δ·a) [x, 1], `(features + 1,)`.
        std: Standard deviation of each of its entries; infinite where nothing is known.
        straight: Whether δ and x are known by themselves.
    """

    last: LastLayer
    direction: Tensor
    product: Tensor
    std: Tensor
    straight: bool

    @property
    def delta(self) -> Tensor:
        """∂L/∂z, `(classes,)`, as the bias column has it."""
        return self.direction * self.product[-1]

    @property
    def features(self) -> Tensor:
        """The layer's input, `(features,)`, likewise."""
        return self.product[:-1] / self.product[-1]

    @property
    def features_std(self) -> Tensor:
        """Standard deviation of each feature at that scale."""
        return self.std[:-1] / self.product[-1].abs()


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
    least = matrix.new_tensor(options.least * float(matrix.square().mean().sqrt()))
    noise = torch.cat([_noise(seen, last, "weight"), _noise(seen, last, "bias")[:, None]], 1).hypot(least)
    weights = torch.where(noise.isfinite(), noise.pow(-2), 0.0)
    if not (weights[:, -1].any() and (matrix * (weights > 0)).any()):
        return None
    direction, product = _rank_one(matrix, weights / weights.max(), options)
    if not product[-1].abs() > 0:
        return None
    std = (weights * direction.square()[:, None]).sum(0).rsqrt()
    return NoisyLastLayer(last, direction, product, std, bool(std[-1] <= options.straight * product[-1].abs()))


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
