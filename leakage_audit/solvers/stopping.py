"""When an iteration ends, and how: one rule for every solver (docs/method.md, section 5.15)."""

from enum import Enum

from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.solvers.options import StoppingOptions


class Status(Enum):
    """How a solve ended; each with its sentence.

    >>> Status.STALLED.sentence(residual=0.25, steps=7)
    "the residual stalled at 0.25 of the targets' size"
    >>> Status.STALLED.solved, Status.STALLED.converged, Status.MAX_STEPS.converged
    (False, True, False)
    """

    SOLVED = "the image settled with its equations solved"
    EACH_SOLVED = "each image settled, and the batch's equations are solved"
    EACH_LAYER = "each layer's own system determined its input, with all equations solved"
    READ_OFF = "a layer that is fed the image gave its input away"
    CONTRADICTED = "a layer that is fed the image gave away one that the gradient contradicts by {residual:.2g}"
    STALLED = "the residual stalled at {residual:.2g} of the targets' size"
    MAX_STEPS = "{steps} steps were not enough"
    TIME_UP = "the time was up"
    WITHIN = "the image settled with the gradient's entries in their intervals, as far as those tell"
    KEPT_GREY = "neither the first-order start nor any step from it explains the gradient better than grey"
    KEPT_START = "no step from the first-order start improved on it"

    @property
    def solved(self) -> bool:
        """Whether the equations are solved and the image has settled."""
        return self in (Status.SOLVED, Status.EACH_SOLVED, Status.EACH_LAYER, Status.READ_OFF)

    @property
    def converged(self) -> bool:
        """Whether the iteration came to its own end, as an attack's `converged` means it."""
        return self not in (Status.MAX_STEPS, Status.TIME_UP)

    def sentence(self, residual: float, steps: int) -> str:
        """In words, with where and when it ended."""
        return self.value.format(residual=residual, steps=steps)


class StoppingRule:
    """Ends when the image settles with its equations solved, or nothing is gained any more; keeps the best iterate.

    Args:
        options: What counts as solved, settled and stalled.
        floor: Standard deviation of each equation, `(m,)`.
        probed: Whether the linearisation is estimated from random probes, which keep the image moving a little and
            tell how much the equations' kinks leave open.
        image: Where the iteration starts, `(n,)`.
        r: The equations there, `(m,)`.

    Attributes:
        solved: Root mean square of the residual, targets being 1, at or below which the equations are solved.
        best: The best image so far and the residual there.
    """

    def __init__(self, options: StoppingOptions, floor: Tensor, probed: bool, image: Tensor, r: Tensor) -> None:
        self._options, self._probed, self._idle = options, probed, 0
        self.solved = solved_below(options, floor)
        self.best = image, r
        self._status: Status | None = None

    def __call__(
        self, image: Tensor, r: Tensor, change: float, variance: Tensor, noise: Tensor, headway: bool
    ) -> Status | None:
        """Judge a step.

        Args:
            image: Where it led, `(n,)`.
            r: The equations there, `(m,)`.
            change: Root mean square of the image's change.
            variance: Of each equation: its own noise, and what its linearisation leaves open.
            noise: The variance by which the step weighed the equations, by which residuals are compared.
            headway: Whether the step made as much headway as it could.

        Returns:
            How the iteration ends here; None if it goes on.
        """
        options = self._options
        settled = change < (options.settled_probed if self._probed else options.settled)
        explained = rms(r) <= self.solved or (self._probed and rms(r / variance.sqrt()) <= options.within)
        self._idle = 0 if headway else self._idle + 1
        if settled and explained:
            self.best, self._status = (image, r), Status.SOLVED
            return self._status
        if rms(r) <= self.solved or weighted_residual(r, noise) <= weighted_residual(self.best[1], noise):
            self.best = image, r
        stuck = settled if self._probed else change < options.stuck * options.settled
        if stuck or self._idle >= options.patience:
            self._status = Status.STALLED
        return self._status

    def status(self, steps: int, max_steps: int) -> Status:
        """How the iteration ended after `steps`."""
        return self._status or (Status.MAX_STEPS if steps == max_steps else Status.TIME_UP)


def solved_below(options: StoppingOptions, floor: Tensor) -> float:
    """Root mean square of the residual, targets being 1, at or below which equations are solved.

    Args:
        options: What counts as solved.
        floor: Standard deviation of each equation, `(m,)`.
    """
    return max(options.solved, options.noise * rms(floor))


def weighted_residual(r: Tensor, noise: Tensor) -> float:
    """Squares of the residual, each in units of its equation's variance.

    >>> import torch
    >>> weighted_residual(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    2.0
    """
    return float((r.square() / noise).sum())
