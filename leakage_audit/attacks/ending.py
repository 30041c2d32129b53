"""How an attack ended, in two words that are defined here for all attacks (docs/method/attacks.md).

*Converged*: it came to its own end. An iteration has converged when its objective has settled, a direct method always,
and so has whatever succeeded, as nothing is left to gain. One that ran away, or that time or its number of steps cut
short, has not, and what it returned is no result.

*Succeeded*: the gradient of what it returned is the observed one, as exactly as rounding and a defence's noise allow.
It may have converged without: in a local minimum, or weighing a prior against the gradient. And an attack that
succeeded need not have found the image: what the gradient leaves open agrees with it whatever it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.equations.base import relative_error_of, rms
from leakage_audit.observation import Observation, copy_network
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class EndingOptions(Checked):
    """When an attack has converged, and when it has succeeded.

    Attributes:
        window: Last share of an iteration's steps over which its objective must have settled: shorter than the last
            stretch of constant step size of any recipe.
        least: And at least this many steps: fewer say nothing of a slow descent.
        settled: Relative decrease of the best objective over it, at or below which it has. CosineTV's recipes are below
            a thousandth where the objective lies still, at one to sixteen hundredths where it falls (one image's runs).
        matched: Relative error of each gradient, as a vector, at which it agrees: far above what linear algebra leaves
            (1e-7 of float32 grows to 1e-4), far below what a wrong image does (0.1 to 1).
        rounding_units: And that many units of rounding of the gradients' type.
        noise_units: And that many standard deviations of a defence's noise: at the truth it is one.
        cancelled: A gradient whose own size is below this share of the largest is rounding only, as a bias's before
            batch normalisation is, and not compared.
    """

    window: float = 0.1
    least: int = 20
    settled: float = 0.01
    matched: float = 1e-3
    rounding_units: float = 4.0
    noise_units: float = 1.5
    cancelled: float = 1e-10

    def __post_init__(self) -> None:
        self.check(("least", "rounding_units", "noise_units"), ("settled", "cancelled"), ("window", "matched"))


class Settling:
    """Whether the best objective of an iteration has settled.

    Args:
        total: Steps that it is to make.
        options: What counts as settled.

    >>> falling, level = Settling(40, EndingOptions()), Settling(40, EndingOptions())
    >>> for step in range(40):
    ...     falling(0.9**step)
    ...     level(1.0)
    >>> falling.settled, level.settled
    (False, True)
    """

    def __init__(self, total: int, options: EndingOptions) -> None:
        self._total, self._options = total, options
        self._window = max(options.least, round(options.window * total))
        self._best: list[float] = []  # the last of them, one more than the window has
        self._recent: list[float] = []
        self._first = math.nan

    def __call__(self, value: float) -> None:
        """The objective at the next step; what is not finite is no better."""
        self._first = value if math.isnan(self._first) else self._first
        self._recent = [*self._recent[1 - self._window :], value]
        best = self._best[-1] if self._best else math.inf
        self._best = [*self._best[-self._window :], min(best, value) if math.isfinite(value) else best]
        self._total -= 1

    @property
    def settled(self) -> bool:
        """Whether all steps were made and the last ones gained next to nothing, but not by running away."""
        if self._total > 0 or len(self._best) <= self._window or not math.isfinite(self._best[0]):
            return False
        small = self._options.settled
        away = not min(self._recent) <= self._first + small * abs(self._first)
        return self._best[0] - self._best[-1] <= small * abs(self._best[0]) and not away


def misfit(
    seen: Observation,
    x: Tensor,
    labels: Tensor,
    options: EndingOptions,
    dtype: torch.dtype = torch.float64,
    budget: Budget | None = None,
) -> float:
    """How far the gradient of inputs `x (B, C, H, W)` is from the observed one, in units of what is allowed.

    The root mean square over the parameters; NaN where there is nothing to compare.

    Args:
        seen: What leaked, with what is known of each entry's noise; one of which nothing is known is not compared.
        x: The network's inputs.
        labels: Of each, as the loss takes them.
        options: What is allowed.
        dtype: In which the gradient is recomputed.
        budget: Limit of memory; none by default.

    Raises:
        OutOfMemory: If the gradient cannot be recomputed within it.
    """
    rounding = options.rounding_units * relative_error_of(seen.dtype, 1.0)
    weights, gradient = (sum(t.numel() for t in many) for many in (seen.network.parameters(), seen.gradients.values()))
    # The network and what leaked in this type, a copy that runs, and its gradient.
    converted = 0 if seen.dtype == dtype else weights + gradient
    memory = (converted + weights + gradient) * dtype.itemsize
    (budget or Budget()).require_memory("a comparison of gradients", memory)
    seen = seen.to(dtype)
    network = copy_network(seen.network)
    own = dict(network.named_parameters())
    parameters = [own[name].requires_grad_() for name in seen.gradients]
    loss = seen.loss(network(x.to(seen.device, dtype)), labels[: len(x)])
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    largest = max((rms(g) for g in found), default=0.0)
    shares = []
    for g, (name, target) in zip(found, seen.gradients.items(), strict=True):
        std = seen.noise.get(name, torch.zeros(())).to(g).expand_as(g)
        told = std.isfinite()
        if rms(g) > options.cancelled * largest and told.any():
            allowed = _allowed(target[told], rounding, std[told], options)
            shares.append(float((g - target)[told].norm()) / allowed)
    return math.sqrt(sum(share**2 for share in shares) / len(shares)) if shares else math.nan


def _allowed(target: Tensor, rounding: float, std: Tensor, options: EndingOptions) -> float:
    by_noise = options.noise_units * float(std.norm())
    return (options.matched + rounding) * float(target.norm()) + by_noise or math.nan
