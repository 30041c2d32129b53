"""Which entry of its window each maximum was, and a convolution's input with it, from the gradient of its weights.

Below a max pooling whose output v and derivative d are known, a convolution has the derivative d at one unknown
position of each window w, and with x its input, U_c(w) the patch of x that position c of the window reads,

    g_o = Σ_w d_ow U_{c(o,w)}(w),     ⟨weight_o, U_{c(o,w)}(w)⟩ + bias_o = v_ow = the largest of its window:

linear in x once the choices c are known, many more equations than unknowns. Both are found by expectation maximisation:
a Gaussian posterior of x under the odds of the choices, whose spread is noise to the equations; and the odds under that
posterior, from how well a choice explains the gradient and how likely it is the largest. Certificate: the choices are
those of the x that they give, and all equations hold to the gradient's rounding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class PooledMaximaOptions(Checked):
    """How the choices of a max pooling are searched, and when they count as found.

    Attributes:
        rounds: Of expectation and maximisation.
        usual: Rounds that find what is found, and that must fit into the time.
        damping: Share of the odds that is kept from round to round, so that no choice is made on one round's say.
        trust: Share of an equation's squared residual that counts as its noise, beside what the odds leave open.
        evidence: Power of the gradient's likelihood: its equations share the error of x and say less than their number.
        chance: That the largest is one that the posterior does not expect.
        samples: Of the posterior, which tell how often each entry is the largest.
        smooth: Standard deviation of neighbours' difference, in standard deviations of the input.
        level: Of the input about its mean, likewise; wide, as it differs from image to image.
        granted: Share of the input's mean variance that a maximum's equation is granted beside that.
        floor: Relative error of an equation, rounding.
        settled: The choices are tried as they stand where the gradient's relative residual is this share of a tenth,
            again at this share of what it then was, and at the end.
        better: Share of the least residual so far below which a round has got further.
        patience: Rounds without getting further after which the search has failed.
        consistent: Relative residual up to which all equations hold: rounding leaves 1e-7, a wrong choice 1e-2.
        largest: Entries of an input that are solved for densely.
        pictures: Smooth ones at random, which tell the usual mean and spread of the input.
        coarse: Side of the noise that they are drawn from.
    """

    rounds: int = 40
    usual: int = 26
    damping: float = 0.5
    trust: float = 0.1
    evidence: float = 0.5
    chance: float = 0.02
    samples: int = 24
    smooth: float = 0.4
    level: float = 9.0
    granted: float = 1e-3
    floor: float = 1e-7
    settled: float = 0.5
    better: float = 0.97
    patience: int = 6
    consistent: float = 1e-4
    largest: int = 2500
    pictures: int = 16
    coarse: int = 4

    def __post_init__(self) -> None:
        positive = (
            "rounds",
            "usual",
            "samples",
            "smooth",
            "level",
            "floor",
            "consistent",
            "settled",
            "better",
            "pictures",
            "coarse",
        )
        self.check(positive, ("trust", "evidence", "granted", "largest", "patience"))
        self.check(share=("damping", "chance"))


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
class FoundInput:
    """The input `(n,)`, its standard deviation, and the choices `(c_out, windows)`."""

    value: Tensor
    std: Tensor
    choice: Tensor


class PooledMaxima:
    """The search, for the input with mean `mean` and standard deviation `std` before anything is known."""

    def __init__(self, layer: PooledConvolution, mean: float, std: float, options: PooledMaximaOptions) -> None:
        self._layer, self._options = layer, options
        self._n = layer.shape[0] * layer.shape[1] * layer.shape[2]
        self._mean = layer.gradient.new_full((self._n,), mean)
        self._precision = _smoothness(layer.shape, options.smooth * std, options.level * std).to(self._mean)
        at = layer.reads[:, layer.windows.flatten()]
        self._at = at.reshape(len(at), *layer.windows.shape)
        self._floor = (options.floor * layer.gradient.square().mean().sqrt()) ** 2

    def solve(self, budget: Budget) -> FoundInput | None:
        """The input, if choices are found that all equations bear out.

        Raises:
            OverBudget: If time or memory do not suffice.
        """
        layer, n = self._layer, self._n
        (outputs, taps), entries = layer.gradient.shape, layer.windows.shape[1]
        memory = 8 * (outputs * (taps + layer.value.shape[1]) * n + 6 * n * n)
        flops = 2.0 * self._options.usual * (outputs * (taps + layer.value.shape[1]) * n * n + n**3)
        budget.require("the input below a max pooling", memory, flops)
        odds = torch.full((*layer.value.shape, entries), 1 / entries).to(layer.gradient)
        x, variance, generator = self._mean, torch.linalg.inv(self._precision).diagonal(), torch.Generator()
        generator.manual_seed(0)
        best, since, tried = 1.0, 0, 0.1
        for k in range(self._options.rounds):
            budget.check()
            x, factor = self._posterior(self._rows(odds), *self._noise(odds, x, variance, first=not k))
            variance = torch.cholesky_inverse(factor).diagonal()
            draws = torch.randn(n, self._options.samples, generator=generator, dtype=x.dtype).to(x.device)
            draws = x + torch.linalg.solve_triangular(factor.T, draws, upper=True).T
            odds = self._options.damping * odds + (1 - self._options.damping) * self._odds(odds, x, variance, draws)
            left = float(self._mixture(odds, x)[2].norm() / layer.gradient.norm())
            if left < best * self._options.better:
                best, since = left, k
            elif k - since > self._options.patience:
                break
            if left < tried * self._options.settled:
                tried, found = left, self._settle(x, budget)
                if found is not None:
                    return found
        return self._settle(x, budget)

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
        layer, trust, floor = self._layer, self._options.trust, self._floor
        patches, mean, residual = self._mixture(odds, x)
        spread = self._patches(variance)
        apart = torch.einsum("owc,kwc->okw", odds, patches.square() + spread) - mean.square()
        apart = apart - torch.einsum("owc,kwc->okw", odds.square(), spread)
        noise = torch.einsum("okw,ow->ok", apart.clamp_min(0), layer.derivative.square())
        noise = noise + (0.0 if first else trust) * residual.square().mean(1, keepdim=True) + floor
        scores = self._scores(x)
        expected = (odds * scores).sum(-1)
        of_value = (odds * scores.square()).sum(-1) - expected.square() + trust * (expected - layer.value).square()
        of_value = of_value + layer.weight.square().sum(1, keepdim=True) * self._options.granted * variance.mean()
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
        step = torch.cholesky_solve((weighed.T @ (target - rows @ self._mean))[:, None], factor)[:, 0]
        return self._mean + step, factor

    def _odds(self, odds: Tensor, x: Tensor, variance: Tensor, draws: Tensor) -> Tensor:
        """Of each window's entries to be its maximum."""
        layer, options = self._layer, self._options
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

    def _settle(self, x: Tensor, budget: Budget) -> FoundInput | None:
        """The input whose largest entries are the choices that it follows from, if it explains everything."""
        layer, choice = self._layer, None
        exact = (self._options.floor * layer.value.square().mean().sqrt()) ** 2
        noise = torch.full_like(layer.gradient, float(self._floor)), torch.full_like(layer.value, float(exact))
        for _ in range(5):
            budget.check()
            now = self._scores(x).argmax(-1)
            if choice is not None and torch.equal(now[layer.on], choice[layer.on]):
                break
            choice = now
            gradient, value = self._rows(F.one_hot(choice, self._at.shape[-1]).to(x))
            x, factor = self._posterior((gradient, value), *noise)
        else:
            return None
        left = (gradient @ x - layer.gradient).norm() / layer.gradient.norm()
        wrong = (value @ x + layer.bias[:, None] - layer.value)[layer.on].norm() / layer.value[layer.on].norm()
        over = (self._scores(x).amax(-1) - layer.value)[~layer.on]
        off = float(over.max()) > self._options.consistent * float(layer.value.abs().max()) if len(over) else False
        equations = int(layer.on.any(1).sum()) * layer.gradient.shape[1] + int(layer.on.sum())
        if max(float(left), float(wrong)) > self._options.consistent or off or equations <= self._n:
            return None
        return FoundInput(x, torch.cholesky_inverse(factor).diagonal().sqrt(), choice)


def _smoothness(shape: tuple[int, int, int], step: float, level: float) -> Tensor:
    """Precision of a prior on first differences, free at the ends, and on the level, `(n, n)`."""
    channels, height, width = shape
    places = torch.arange(height * width).reshape(height, width)
    identity = torch.eye(height * width, dtype=torch.float64)
    precision = identity / level**2
    for one, two in ((places[1:], places[:-1]), (places[:, 1:], places[:, :-1])):
        apart = identity[one.flatten()] - identity[two.flatten()]
        precision = precision + apart.T @ apart / step**2
    return torch.block_diag(*[precision] * channels)
