"""What a convolution's gradient and its pooled maxima say of its input, while it is open which entries these were.

One round of expectation maximisation: the Gaussian posterior of the input under the odds of the choices, whose spread
is noise to the equations; and the odds under that posterior, from how well a choice explains the gradient and how
likely it is the largest (docs/method/convolutions.md, section 12.7, (M108)).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit.options import Checked


@dataclass(frozen=True)
class PosteriorOptions(Checked):
    """How far a round goes.

    Attributes:
        damping: Share of the odds that is kept from round to round, so that no choice is made on one round's say.
        trust: Share of an equation's squared residual that counts as its noise, beside what the odds leave open.
        evidence: Power of the gradient's likelihood: its equations share the error of x and say less than their number.
        chance: That the largest is one that the posterior does not expect.
        samples: Of the posterior, which tell how often each entry is the largest.
        granted: Share of the input's mean variance that a maximum's equation is granted beside that.
        floor: Relative error of an equation, rounding.
    """

    damping: float = 0.5
    trust: float = 0.1
    evidence: float = 0.5
    chance: float = 0.02
    samples: int = 24
    granted: float = 1e-3
    floor: float = 1e-7

    def __post_init__(self) -> None:
        self.check(("samples", "floor"), ("trust", "evidence", "granted"), ("damping", "chance"))


@dataclass(frozen=True)
class PooledConvolution:
    """A convolution under a max pooling, one image, all in double precision.

    Attributes:
        weight: `(c_out, taps)`, the taps of all input channels.
        bias: `(c_out,)`.
        gradient: Of the weights, `(c_out, taps)`.
        reads: Which entry of the input, flattened, each tap reads at each position, `(taps, positions)`; one beyond the
            last where it reads padding.
        windows: Positions of each window, `(windows, entries)`.
        value: The maxima, behind a rectifier where there is one, `(c_out, windows)`.
        derivative: ∂L/∂value, zero where the rectifier was off.
        on: Where the maximum is known, `(c_out, windows)`: it is not where the rectifier was off.
        shape: Of the input, `(c_in, H, W)`.
    """

    weight: Tensor
    bias: Tensor
    gradient: Tensor
    reads: Tensor
    windows: Tensor
    value: Tensor
    derivative: Tensor
    on: Tensor
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Round:
    """What one round leaves.

    Attributes:
        x: Mean of the input, `(n,)`.
        covariance: Its, `(n, n)`.
        draws: Of the posterior, `(n, samples)`.
        odds: Of each window's entries, `(c_out, windows, entries)`.
    """

    x: Tensor
    covariance: Tensor
    draws: Tensor
    odds: Tensor

    @property
    def variance(self) -> Tensor:
        """Of each entry, `(n,)`."""
        return self.covariance.diagonal()


class PooledPosterior:
    """Rounds under a Gaussian of the input: its `_precision (n, n)`, and that times its mean, `_shift`.

    Args:
        layer: The convolution.
        options: How far a round goes.
    """

    def __init__(self, layer: PooledConvolution, options: PosteriorOptions) -> None:
        self._layer, self._odds_by, self._n = layer, options, layer.shape[0] * layer.shape[1] * layer.shape[2]
        self._precision, self._shift = layer.gradient.new_zeros(self._n, self._n), layer.gradient.new_zeros(self._n)
        at = layer.reads[:, layer.windows.flatten()]
        self._at = at.reshape(len(at), *layer.windows.shape)
        self._floor = (options.floor * layer.gradient.square().mean().sqrt()) ** 2

    def _even(self) -> Tensor:
        """Odds of who knows nothing."""
        entries = self._layer.windows.shape[1]
        return torch.full((*self._layer.value.shape, entries), 1 / entries).to(self._layer.gradient)

    def _round(self, odds: Tensor, x: Tensor, variance: Tensor, generator: torch.Generator, first: bool) -> Round:
        """From the odds and the input so far, the new input and the odds under it."""
        x, factor = self._posterior(self._rows(odds), *self._noise(odds, x, variance, first))
        covariance = torch.cholesky_inverse(factor)
        draws = torch.randn(self._n, self._odds_by.samples, generator=generator, dtype=x.dtype).to(x.device)
        draws = x[:, None] + torch.linalg.solve_triangular(factor.T, draws, upper=True)
        keep = self._odds_by.damping
        odds = keep * odds + (1 - keep) * self._odds(odds, x, covariance.diagonal(), draws.T)
        return Round(x, covariance, draws, odds)

    def _patches(self, x: Tensor) -> Tensor:
        """What each entry of each window reads, `(…, taps, windows, entries)`."""
        return F.pad(x, (0, 1))[..., self._at]

    def _scores(self, x: Tensor) -> Tensor:
        """What the convolution makes of it, `(…, c_out, windows, entries)`."""
        scores = torch.einsum("ok,...kwc->...owc", self._layer.weight, self._patches(x))
        return scores + self._layer.bias[:, None, None]

    def _mixture(self, odds: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The patches, their mean under the odds `(c_out, taps, windows)`, and the gradient's residual with it."""
        patches = self._patches(x)
        mean = torch.einsum("owc,kwc->okw", odds, patches)
        return patches, mean, self._layer.gradient - torch.einsum("okw,ow->ok", mean, self._layer.derivative)

    def _noise(self, odds: Tensor, x: Tensor, variance: Tensor, first: bool) -> tuple[Tensor, Tensor]:
        """Variance of the gradient's and of the maxima's equations."""
        layer, trust, floor = self._layer, self._odds_by.trust, self._floor
        patches, mean, residual = self._mixture(odds, x)
        spread = self._patches(variance)
        apart = torch.einsum("owc,kwc->okw", odds, patches.square() + spread) - mean.square()
        apart = apart - torch.einsum("owc,kwc->okw", odds.square(), spread)
        noise = torch.einsum("okw,ow->ok", apart.clamp_min(0), layer.derivative.square())
        noise = noise + (0.0 if first else trust) * residual.square().mean(1, keepdim=True) + floor
        scores = self._scores(x)
        expected = (odds * scores).sum(-1)
        of_value = (odds * scores.square()).sum(-1) - expected.square() + trust * (expected - layer.value).square()
        of_value = of_value + layer.weight.square().sum(1, keepdim=True) * self._odds_by.granted * variance.mean()
        return noise, of_value + floor

    def _rows(self, odds: Tensor) -> tuple[Tensor, Tensor]:
        """The equations' matrices under the odds, `(c_out, taps, n)` and `(c_out, windows, n)`."""
        layer, n = self._layer, self._n
        at = self._at.flatten(1)
        gradient = layer.gradient.new_zeros(*layer.gradient.shape, n + 1)
        weights = (layer.derivative[..., None] * odds).flatten(1)
        gradient.scatter_add_(2, at.expand(len(gradient), -1, -1), weights[:, None].expand(-1, len(at), -1))
        value = layer.gradient.new_zeros(*layer.value.shape, n + 1)
        where = self._at.permute(1, 2, 0).flatten(1)
        part = (odds[..., None] * layer.weight[:, None, None, :]).flatten(2)
        value.scatter_add_(2, where.expand(len(value), -1, -1), part)
        return gradient[..., :n], value[..., :n]

    def _posterior(
        self, matrices: tuple[Tensor, Tensor], gradient_noise: Tensor, value_noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean of the input and the Cholesky factor of its precision."""
        layer, (gradient, value) = self._layer, matrices
        alive = layer.on.any(1)
        rows = torch.cat([gradient[alive].flatten(0, 1), value[layer.on]])
        noise = torch.cat([gradient_noise[alive].flatten(), value_noise[layer.on]])
        target = torch.cat([layer.gradient[alive].flatten(), (layer.value - layer.bias[:, None])[layer.on]])
        weighed = rows / noise[:, None]
        factor = torch.linalg.cholesky(self._precision + rows.T @ weighed)
        return torch.cholesky_solve((self._shift + weighed.T @ target)[:, None], factor)[:, 0], factor

    def _odds(self, odds: Tensor, x: Tensor, variance: Tensor, draws: Tensor) -> Tensor:
        """Of each window's entries to be its maximum."""
        layer, options = self._layer, self._odds_by
        patches, mean, residual = self._mixture(odds, x)
        apart = torch.einsum("owc,kwc->okw", odds, patches.square() + self._patches(variance)) - mean.square()
        noise = layer.derivative.square()[:, None] * apart
        own = residual.square().mean(1)[:, None, None] / 2 + self._floor
        noise = noise.sum(-1, keepdim=True) - noise + own
        likelihood = torch.stack(
            [
                -((residual[..., None] + layer.derivative[:, None] * (mean - patches[..., c])).square() / noise).sum(1)
                for c in range(odds.shape[-1])
            ],
            -1,
        )
        largest = F.one_hot(self._scores(draws).argmax(-1), odds.shape[-1]).to(x).mean(0)
        new = (options.evidence / 2 * likelihood + (largest + options.chance).log()).softmax(-1)
        return torch.where(layer.on[..., None], new, torch.full_like(new, 1 / new.shape[-1]))
