"""The image below a convolution whose pooled maxima are known.

The first convolution's choices do not follow by themselves as `pooled_maxima` finds them further up: there are fewer
equations than pixels. Three things make up for it (docs/method/convolutions.md, section 12.8, (M118)): the image's own
prior, asked anew at draws of the posterior each round; what is known of entries that were *not* the largest, at most
their window's maximum, which expectation propagation (Minka 2001) adds as Gaussian sites; and a posterior that is no
surer than it is right, so that a choice stays open until the others have told.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit.equations.below_max_pooling import pooled_below
from leakage_audit.equations.known_inputs import RecoveredInput, RecoveryOptions
from leakage_audit.equations.pooled_maxima import PooledMaximaOptions
from leakage_audit.equations.pooled_posterior import PooledConvolution, PooledPosterior, Round
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.priors import GREY, Prior
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class PooledImageOptions(Checked):
    """How the image is searched.

    Attributes:
        rounds: Most of it is found in so many; what follows finds the rest sooner.
        believed: Share of the prior's precision that counts: it touches differences at their likeliest, and is surer of
            an image than it is right.
        asked: Draws of the posterior at which the prior is asked.
        spread: Standard deviation of the first draws around grey.
        damping: Share of a site that is kept from round to round.
        least: Least variance of a bounded entry, as a share of what it was.
        maxima: How the choices are searched.
    """

    rounds: int = 8
    believed: float = 0.1
    asked: int = 2
    spread: float = 0.15
    damping: float = 0.5
    least: float = 1e-6
    maxima: PooledMaximaOptions = field(default_factory=PooledMaximaOptions)

    def __post_init__(self) -> None:
        self.check(("rounds", "believed", "asked", "spread", "least"), share=("damping",))


class PooledImage(PooledPosterior):
    """The search, in the space of what the network is fed: `scale` times the image, plus `shift`, both `(1, C, H, W)`.

    Args:
        layer: The convolution, which the image feeds.
        prior: What images are like.
        scale: Of each entry.
        shift: Of each entry.
        options: How it is searched.
    """

    def __init__(
        self, layer: PooledConvolution, prior: Prior, scale: Tensor, shift: Tensor, options: PooledImageOptions
    ) -> None:
        super().__init__(layer, options.maxima.posterior)
        self._prior, self._scale, self._shift_of_input, self._how = prior, scale, shift, options
        size = layer.reads.shape[1] * len(layer.weight)
        self._site = torch.zeros(size).to(layer.gradient), torch.zeros(size).to(layer.gradient)
        self._pairs = (layer.reads[:, None] * (self._n + 1) + layer.reads[None]).flatten()

    def search(self, budget: Budget) -> Tensor:
        """The image's posterior mean after some rounds, `(1, C, H, W)`.

        Raises:
            OverBudget: If time or memory do not suffice.
        """
        layer, how, n = self._layer, self._how, self._n
        (outputs, taps), pairs = layer.gradient.shape, self._pairs.numel()
        rows = int(layer.on.any(1).sum()) * taps + int(layer.on.sum())
        flops = how.rounds * (2.0 * rows * n**2 + n**3 + 4.0 * outputs * pairs)
        memory = 8 * (2 * outputs * (taps + layer.value.shape[1]) * n + 6 * n**2 + 4 * pairs)
        budget.require("the image below a max pooling", memory, flops)
        generator = torch.Generator().manual_seed(0)
        grey = torch.full_like(self._scale, GREY)
        draws = torch.randn(how.asked, n, generator=generator, dtype=grey.dtype).to(grey)
        draws = (grey + how.spread * draws.reshape(-1, *grey.shape[1:])) * self._scale + self._shift_of_input
        x = (grey * self._scale + self._shift_of_input).flatten()
        variance = ((how.spread * self._scale) ** 2).flatten()
        odds = self._even()
        for k in range(how.rounds):
            if k and budget.exhausted:  # fewer rounds are a start, too
                break
            self._believe(draws)
            now = self._round(odds, x, variance, generator, first=not k)
            x, variance, odds = now.x, now.variance, now.odds
            self._bound(now)
            draws = now.draws.T[: how.asked].reshape(-1, *grey.shape[1:])
        return (x.reshape(grey.shape) - self._shift_of_input) / self._scale

    def _believe(self, draws: Tensor) -> None:
        """Ask the prior at draws of the input, and add the sites."""
        scale, n = self._scale.flatten(), self._n
        precision, pulled = torch.zeros(n, n).to(scale), torch.zeros(n + 1).to(scale)
        for draw in (draws - self._shift_of_input) / self._scale:
            gaussian = self._prior.local_gaussian(draw[None])
            own = gaussian.precision_matrix()
            pulled[:n] += own @ (gaussian.mean + self._shift_of_input.flatten() / scale)
            precision += own
        share = self._how.believed / len(draws)
        precision *= share / scale[:, None] / scale
        pulled[:n] *= share / scale
        sure, towards = self._site
        weight, size = self._layer.weight, (len(self._layer.weight), -1)
        both = torch.einsum("ok,oj,op->kjp", weight, weight, sure.reshape(size)).flatten()
        padded = torch.zeros((n + 1) ** 2).to(scale).index_add_(0, self._pairs, both).reshape(n + 1, n + 1)
        told = towards.reshape(size) - sure.reshape(size) * self._layer.bias[:, None]
        pulled.index_add_(0, self._layer.reads.flatten(), (weight.T @ told).flatten())
        self._precision, self._shift = precision.add_(padded[:n, :n]), pulled[:n]

    def _bound(self, now: Round) -> None:
        """A site for each entry that was not its window's largest: at most the maximum, zero where that is off."""
        layer, how, (sure, towards) = self._layer, self._how, self._site
        padded = F.pad(now.covariance, (0, 1, 0, 1)).flatten()[self._pairs]
        padded = padded.reshape(len(layer.reads), len(layer.reads), -1)
        variance = torch.einsum("ok,oj,kjp->op", layer.weight, layer.weight, padded).flatten().clamp_min(how.least)
        scores = layer.weight @ F.pad(now.x, (0, 1))[layer.reads] + layer.bias[:, None]
        at = layer.windows.flatten()
        size = len(layer.weight), len(at) // layer.windows.shape[1], layer.windows.shape[1]
        bound, open_ = torch.full_like(scores, torch.inf), torch.zeros_like(scores)
        bound[:, at] = layer.value[..., None].expand(size).flatten(1)
        open_[:, at] = torch.where(layer.on[..., None], 1 - now.odds, 1.0).flatten(1)
        new = truncated_site(scores.flatten(), variance, sure, towards, bound.flatten(), how.least)
        keep, weight = how.damping, (1 - how.damping) * open_.flatten()
        self._site = keep * sure + weight * new[0], keep * towards + weight * new[1]


def truncated_site(
    mean: Tensor, variance: Tensor, sure: Tensor, towards: Tensor, bound: Tensor, least: float
) -> tuple[Tensor, Tensor]:
    """The Gaussian site that stands for "at most `bound`", its precision and precision times mean.

    Args:
        mean: Posterior of each entry.
        variance: Likewise.
        sure: Precision of the site that is in this posterior.
        towards: Precision times mean of that site.
        bound: Of each entry; infinite where there is none.
        least: Least variance of the truncated entry, and least precision of the cavity, as a share of what they were.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> sure, towards = truncated_site(0 * one, one, 0 * one, 0 * one, 0 * one, 1e-9)  # a half normal distribution
    >>> round(float(1 / (1 + sure)), 4), round(1 - 2 / math.pi, 4)  # its variance
    (0.3634, 0.3634)
    """
    free = bound.isinf()
    bound = bound.where(~free, mean)
    cavity = torch.maximum(1 / variance - sure, least / variance)
    centre = (mean / variance - towards) / cavity
    std = cavity.rsqrt()
    u = (bound - centre) / std
    hazard = (-u.square() / 2 - math.log(2 * math.pi) / 2 - torch.special.log_ndtr(u)).exp()
    expected = centre - std * hazard
    spread = std.square() * (1 - u * hazard - hazard.square()).clamp_min(least)
    new = (1 / spread - cavity).clamp_min(0)
    pull = torch.where(new > 0, expected / spread - cavity * centre, 0.0)
    return new.where(~free, 0.0), pull.where(~free, 0.0)


def image_below_max_pooling(
    seen: Observation,
    known: RecoveredInput,
    prior: Prior,
    walk: RecoveryOptions | None = None,
    options: PooledImageOptions | None = None,
    budget: Budget | None = None,
) -> Tensor | None:
    """Where to look for the image below a convolution whose pooled maxima are known, `(1, C, H, W)`.

    Args:
        seen: What leaked of one image, in float64.
        known: The layer that these feed.
        prior: What images are like.
        walk: How guesses of the image are made.
        options: How it is searched.
        budget: Limits of time and memory.

    Returns:
        None where something else lies below.

    Raises:
        OverBudget: If time or memory do not suffice.
    """
    walk, options, budget = walk or RecoveryOptions(), options or PooledImageOptions(), budget or Budget()
    below = pooled_below(seen, known, walk, options.maxima)
    if below is None or not below.of_image:
        return None
    image = torch.zeros(1, *seen.input_shape, dtype=seen.dtype, device=seen.device)
    shift = seen.to_input(image)
    return PooledImage(below.layer, prior, seen.to_input(image + 1) - shift, shift, options).search(budget)
