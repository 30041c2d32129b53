"""Everything the gradients tell, as equations F(image) = 0 with the precision of each.

Each block of equations is scaled to targets of unit size; `noise` is the standard deviation of each equation in
these units (docs/method.md, section 5.1, (M30)).
"""

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.func import vjp, vmap

from leakage_audit.equations.differentiation import columns_of, forward_product, unit_vectors
from leakage_audit.equations.smoothed_kinks import SmoothedKinks
from leakage_audit.equations.smoothness import SmoothnessOptions, has_kinks
from leakage_audit.equations.switches import GivenSwitches, Switches
from leakage_audit.equations.units import numbered
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class EquationOptions(Checked):
    """What an attack may ask of equations, and how they find it out.

    Attributes:
        rows: Reverse passes at a time; beyond this they only leave the processor's cache.
        columns: Forward passes at a time, which keep less.
        smoothness: How kinks are looked for.
    """

    rows: int = 16
    columns: int = 64
    smoothness: SmoothnessOptions = field(default_factory=SmoothnessOptions)

    def __post_init__(self) -> None:
        self.check(positive=("rows", "columns"))


@dataclass(frozen=True)
class Block:
    """Equations of one origin.

    Attributes:
        name: What they say.
        target: What was observed, `(m,)`.
        noise: Its standard deviation, `(m,)` or a number, in the target's units.
        units: Which unit (output channel) of the layer that `name`, a parameter, belongs to each is about, `(m,)`; by
            default all belong together.
    """

    name: str
    target: Tensor
    noise: Tensor | float
    units: Tensor | None = None


EVALUATION = "evaluation of the equations"  # the unit of time that products with their derivatives are foreseen in
ROWS, COLUMNS = "rows of the Jacobian", "columns of the Jacobian"  # units of time, too
FORWARD, PRODUCT = 0.4, 3.0  # a pass through the network alone, and a product with J or Jᵀ, in evaluations


class Equations(ABC):
    """F(image) = 0, block by block.

    Args:
        seen: What leaked, in float64.
        blocks: The equations' targets, in the order in which `values` returns them; a block whose target is not above
            its own noise says nothing and is kept with weight zero.
        budget: Limits of time and memory for what the equations do; none by default.

    Attributes:
        shape: `(B, C, H, W)` of the unknown.
        noise: Standard deviation of each scaled equation, `(m,)`.
        sizes: Number of equations of each block.
        units: Number of the unit that each equation is about, `(m,)`: those of an output channel's weights and bias
            have one in common, and a block that is of no unit is one.
    """

    def __init__(self, seen: Observation, blocks: list[Block], budget: Budget | None = None) -> None:
        self.seen, self.blocks = seen, blocks
        self.shape = (seen.batch_size, *seen.input_shape)
        self._budget, self._options = budget or Budget(), EquationOptions()
        self._kinks: SmoothedKinks | None = None
        self._scales: list[float] = []
        noise = []
        for block in blocks:
            size = float(block.target.norm()) / math.sqrt(max(block.target.numel(), 1))
            self._scales.append(1 / size if size > 0 else 0.0)
            noise.append(
                (torch.as_tensor(block.noise, dtype=torch.float64) * self._scales[-1])
                .to(block.target)
                .expand_as(block.target)
            )
        self.noise = torch.cat(noise)
        self.sizes = [block.target.numel() for block in blocks]
        self.units = numbered([b.name for b in blocks], self.sizes, [b.units for b in blocks]).to(self.noise.device)

    @property
    def linear(self) -> bool:
        """Whether the Jacobian is the same everywhere."""
        return False

    @property
    def calibrated(self) -> bool:
        """Whether `noise` is known, and not only thought to be at least so large."""
        return bool(self.seen.noise)

    @cached_property
    def kinked(self) -> bool:
        """Whether some block has kinks or jumps; found out by evaluations when it is first asked, and then known.

        Raises:
            TimeoutError: If the time is up before it is known.
        """
        if self.linear:
            return False
        return has_kinks(self.evaluate, self.shape, self.sizes, self.noise, self._options.smoothness, self._budget)

    @property
    def own_rows(self) -> int:
        """How many equations of each image alone the first block holds, image by image; 0 where they are not so."""
        return 0

    @property
    def options(self) -> EquationOptions:
        """How they find out what they are asked."""
        return self._options

    @property
    def budget(self) -> Budget:
        """The clock that they are under."""
        return self._budget

    def within(self, budget: Budget, options: EquationOptions | None = None) -> Self:
        """These equations, under a clock and with options for whatever they have to find out about themselves."""
        self._budget, self._options = budget, options or self._options
        return self

    @property
    @abstractmethod
    def memory_estimate(self) -> int:
        """About how many numbers one reverse pass through `values` keeps."""

    @abstractmethod
    def values(self, image: Tensor) -> list[Tensor]:
        """What each block's target would be for `image (B, C, H, W)`."""

    def evaluate(self, image: Tensor) -> Tensor:
        """The same as `residual` on the clock: for whoever differentiates nothing.

        Raises:
            OutOfTime: If there is not enough time left for as long as it took last.
        """
        with self._budget.work(kind=EVALUATION):
            return self.residual(image).detach()

    def residual(self, image: Tensor) -> Tensor:
        """F(image), scaled, `(m,)`, for an image of any shape with the right number of entries."""
        return torch.cat(self.residuals(image))

    def residuals(self, image: Tensor) -> list[Tensor]:
        """F(image), block by block."""
        with self._kinks or nullcontext():
            values = self.values(image.reshape(self.shape))
        return [(v - b.target) * s for v, b, s in zip(values, self.blocks, self._scales, strict=True)]

    def run(self, image: Tensor) -> None:  # noqa: B027  chains know their kinks otherwise
        """Run the network once on `image (B, C, H, W)`, so that its kinks are met; by default it is not run."""

    def smoothed(self, image: Tensor, perturbations: Tensor) -> "Equations":
        """These equations averaged over moves of the image: their network's kinks rounded off, by default.

        Args:
            image: `(n,)`.
            perturbations: How else the image may be, `(moves, n)`.
        """
        kinks = SmoothedKinks()
        with torch.no_grad():
            for perturbation in perturbations:
                with kinks:
                    self.run((image + perturbation).reshape(self.shape))
        if not kinks.settle():
            return self
        smooth = copy(self)
        smooth._kinks = kinks
        return smooth

    def linearize(self, image: Tensor, memory: float, budget: Budget | None = None) -> tuple[Tensor, Tensor]:
        """F and its Jacobian at `image`, `(m,)` and `(m, n)`.

        Row by row in reverse mode, or column by column in forward mode where there are fewer unknowns than equations;
        as many at a time as fit in memory.

        Args:
            image: Where, `(n,)`.
            memory: Bytes that the passes may take.
            budget: Time limit; none by default.

        Raises:
            TimeoutError: If the time is up before all passes are made.
        """
        budget, image = budget or Budget(), image.flatten()
        if len(self.noise) <= len(image):
            chunk = self.at_once(memory, self._options.rows)
            parts, rows, open_rows = [], [], len(self.noise)
            for i, size in enumerate(self.sizes):
                # One block's rows alone: the reverse pass then leaves out what only the others depend on.
                part, pull = vjp(lambda x, i=i: self.residuals(x)[i], image)[:2]
                parts.append(part.detach())
                for units in unit_vectors(size, chunk, part):
                    budget.foresee(open_rows, ROWS)
                    open_rows -= len(units)
                    with budget.work(len(units), ROWS):
                        rows.append(vmap(lambda v, pull=pull: pull(v)[0])(units).detach())
            return torch.cat(parts), torch.cat(rows)

        chunk = self.at_once(memory, self._options.columns)
        columns = columns_of(self.residual, image, chunk, budget, COLUMNS)
        return self.evaluate(image), columns

    def at_once(self, memory: float, most: int) -> int:
        """How many passes through `values` are made at a time: as many as fit in `memory` bytes, at most `most`."""
        return min(int(max(memory / 8 / self.memory_estimate, 1)), most)

    def jvp(self, image: Tensor, perturbation: Tensor) -> Tensor:
        """The Jacobian at `image (n,)` times `move (n,)`, in forward mode."""
        return forward_product(self.residual, image, perturbation)

    def switches(self, image: Tensor) -> Switches | None:
        """What decides the network's switches at `image (n,)`; None if it has none, or kinks of other kinds."""
        with torch.no_grad(), GivenSwitches() as met:
            self.run(image.reshape(self.shape))
        return met.switches

    def residual_at(self, image: Tensor, on: Tensor) -> Tensor:
        """F(image), the switches being set.

        Args:
            image: `(n,)`.
            on: Of each switch, in the order of `switches`, `(k,)`.
        """
        with GivenSwitches(on):
            return self.residual(image)

    def with_rows(self, count: int) -> "Equations":
        """The same with as many equations, where there were more and random sums stand for them; else themselves."""
        return self


def relative_error_of(dtype: torch.dtype, units: float = 4.0) -> float:
    """Relative error of a gradient's entry: the only place where a type's rounding becomes one.

    Args:
        dtype: The type in which the gradients were computed.
        units: Of its rounding; an entry is a sum of many rounded terms, so that its error is some units.

    >>> relative_error_of(torch.float32) == 4 * 2**-23
    True
    """
    return units * torch.finfo(dtype).eps


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())
