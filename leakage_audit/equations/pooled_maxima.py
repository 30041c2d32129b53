"""Which entry of its window each maximum was, and a convolution's input with it, from the gradient of its weights.

Below a max pooling whose output v and derivative d are known, a convolution has the derivative d at one unknown
position of each window w, and with x its input, U_c(w) the patch of x that position c of the window reads,

    g_o = Σ_w d_ow U_{c(o,w)}(w),     ⟨weight_o, U_{c(o,w)}(w)⟩ + bias_o = v_ow = the largest of its window:

linear in x once the choices c are known, many more equations than unknowns. Both are found by expectation maximisation
(`pooled_posterior`). Certificate: the choices are those of the x that they give, and all equations hold to the
gradient's rounding.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit.equations.pooled_posterior import PooledConvolution, PooledPosterior, PosteriorOptions
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class PooledMaximaOptions(Checked):
    """How the choices of a max pooling are searched, and when they count as found.

    Attributes:
        rounds: Of expectation and maximisation.
        usual: Rounds that find what is found, and that must fit into the time.
        smooth: Standard deviation of neighbours' difference, in standard deviations of the input.
        level: Of the input about its mean, likewise; wide, as it differs from image to image.
        settled: The choices are tried as they stand where the gradient's relative residual is this share of a tenth,
            again at this share of what it then was, and at the end.
        better: Share of the least residual so far below which a round has got further.
        patience: Rounds without getting further after which the search has failed.
        consistent: Relative residual up to which all equations hold: rounding leaves 1e-7, a wrong choice 1e-2.
        largest: Entries of an input that are solved for densely.
        pictures: Smooth ones at random, which tell the usual mean and spread of the input.
        coarse: Side of the noise that they are drawn from.
        posterior: How far a round goes.
    """

    rounds: int = 40
    usual: int = 26
    smooth: float = 0.4
    level: float = 9.0
    settled: float = 0.5
    better: float = 0.97
    patience: int = 6
    consistent: float = 1e-4
    largest: int = 2500
    pictures: int = 16
    coarse: int = 4
    posterior: PosteriorOptions = field(default_factory=PosteriorOptions)

    def __post_init__(self) -> None:
        self.check(("rounds", "usual", "smooth", "level", "consistent", "settled", "better", "pictures", "coarse"))
        self.check(not_negative=("largest", "patience"))


@dataclass(frozen=True)
class FoundInput:
    """The input `(n,)`, its standard deviation, and the choices `(c_out, windows)`."""

    value: Tensor
    std: Tensor
    choice: Tensor


class PooledMaxima(PooledPosterior):
    """The search, for the input with mean `mean` and standard deviation `std` before anything is known."""

    def __init__(self, layer: PooledConvolution, mean: float, std: float, options: PooledMaximaOptions) -> None:
        super().__init__(layer, options.posterior)
        self._options, self._mean = options, layer.gradient.new_full((self._n,), mean)
        self._precision = _smoothness(layer.shape, options.smooth * std, options.level * std).to(self._mean)
        self._shift = self._precision @ self._mean

    def solve(self, budget: Budget) -> FoundInput | None:
        """The input, if choices are found that all equations bear out.

        Raises:
            OverBudget: If time or memory do not suffice.
        """
        layer, n = self._layer, self._n
        outputs, taps = layer.gradient.shape
        memory = 8 * (outputs * (taps + layer.value.shape[1]) * n + 6 * n * n)
        flops = 2.0 * self._options.usual * (outputs * (taps + layer.value.shape[1]) * n * n + n**3)
        budget.require("the input below a max pooling", memory, flops)
        odds, generator = self._even(), torch.Generator().manual_seed(0)
        x, variance = self._mean, torch.linalg.inv(self._precision).diagonal()
        best, since, tried = 1.0, 0, 0.1
        for k in range(self._options.rounds):
            budget.check()
            now = self._round(odds, x, variance, generator, first=not k)
            x, variance, odds = now.x, now.variance, now.odds
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

    def _settle(self, x: Tensor, budget: Budget) -> FoundInput | None:
        """The input whose largest entries are the choices that it follows from, if it explains everything."""
        layer, choice = self._layer, None
        exact = (self._odds_by.floor * layer.value.square().mean().sqrt()) ** 2
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
