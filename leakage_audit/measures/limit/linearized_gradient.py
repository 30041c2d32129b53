"""The shared gradient linearised at the true images: J, in units of the noise, by products or as a matrix.

Products come from differentiating the gradient's own graph once more, which any twice differentiable network allows
and which is built once: Jᵀu is one reverse pass; `Jᵀu` as a function of u is linear, and its own reverse pass is J v
(the double-backward trick, Townsend 2017).
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.equations.count_sketch import CountSketch
from leakage_audit.measures.limit.compression import Entries, Functionals, tangent
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class Block:
    """Columns of J that belong to some of the images, as a product `L R`.

    Attributes:
        rows: R, `(r, k)`.
        spread: L, `(m, r)`, in compressed rows; None for the identity.
    """

    rows: Tensor
    spread: Tensor | None = None

    @property
    def height(self) -> int:
        """m."""
        return len(self.rows) if self.spread is None else self.spread.shape[0]

    def lift(self, values: Tensor) -> Tensor:
        """L times `values (r, …)`."""
        return values if self.spread is None else torch.sparse.mm(self.spread, values)

    def lower(self, values: Tensor) -> Tensor:
        """Lᵀ times `values (m, …)`."""
        return values if self.spread is None else torch.sparse.mm(self._transposed, values)

    @cached_property
    def _transposed(self) -> Tensor:
        assert self.spread is not None
        return self.spread.t().to_sparse_csr()


class LinearizedGradient:
    """J, `(m, n)`: what a change of the images changes of the shared gradient, each row in units of its noise.

    Args:
        images: The unknowns at the truth, `(B, C, H, W)`; all images of the batch or one.
        gradient: ∂L/∂p by name as a function of them, differentiable.
        std: Standard deviation of each gradient's entries, one for all or one each; gradients not named are left out.
        footprint: About how many numbers one reverse pass keeps.
        options: Of the limit.

    Attributes:
        shape: Of the unknowns.
        rows: m.
        columns: n.
        functionals: What is kept of each gradient, by name.
        summed: Whether the rows are random sums of their values.
    """

    def __init__(
        self,
        images: Tensor,
        gradient: Callable[[Tensor], dict[str, Tensor]],
        std: Mapping[str, Tensor],
        footprint: int,
        options: LimitOptions,
    ) -> None:
        self.shape, self.columns = tuple(images.shape), images.numel()
        self.options = options
        self._x = images.detach().clone().requires_grad_()
        found = gradient(self._x)
        values = {name: found[name] / std[name] for name in std}
        self.functionals = self._functionals(values)
        kept = [self.functionals[name](value) for name, value in values.items()]
        every = sum(len(value) for value in kept)
        # E[SᵀS] = I: JᵀSᵀSJ is on average what all of them tell.
        most = int(options.rows_per_unknown * self.columns)
        sketch = CountSketch(every, most, torch.Generator().manual_seed(options.seed))
        self._y = sketch(*kept) if kept else self._x.flatten()[:0]
        self.rows, self.summed = len(self._y), len(self._y) < every
        self._dual, self._pulled = self._transposed(self._y)
        most = options.numerics.passes_at_once
        self._at_once = int(min(max(options.max_memory_gb * 1e9 / 32 / footprint, 1), most))

    def _functionals(self, values: dict[str, Tensor]) -> dict[str, Functionals]:
        """All entries of each gradient, or fewer functionals that say as much."""
        options, kept = self.options, {name: Entries(g.shape) for name, g in values.items()}
        found: dict[str, Functionals] = dict(kept)
        generator = torch.Generator().manual_seed(options.seed)
        matrices = {name: g for name, g in values.items() if g.ndim == 2}  # nothing else has fewer
        if matrices:
            dual, pulled = self._transposed(torch.cat([g.flatten() for g in matrices.values()]))
            sizes, probes = [g.numel() for g in matrices.values()], []
            for _ in range(options.numerics.probes):
                v = torch.randn(self.shape, generator=generator, dtype=torch.float64).to(dual)
                probes.append(self._grad(pulled, dual, v).split(sizes))
            for (name, g), *changes in zip(matrices.items(), *probes, strict=True):
                derivatives = [d.reshape(g.shape) for d in changes]
                found[name] = tangent(g.detach(), derivatives, options.numerics) or found[name]
        return found

    def _transposed(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """u, and Jᵀu as a differentiable function of it."""
        dual = torch.zeros_like(y, requires_grad=True)
        if not y.requires_grad:
            return dual, self._x * 0 + 0 * dual.sum()
        return dual, self._grad(y, self._x, dual, create_graph=True)

    @staticmethod
    def _grad(outputs: Tensor, inputs: Tensor, vector: Tensor, **how: bool) -> Tensor:
        if not outputs.requires_grad:
            batch = vector.shape[: vector.ndim - outputs.ndim]
            return torch.zeros(*batch, *inputs.shape, dtype=inputs.dtype, device=inputs.device)
        (found,) = torch.autograd.grad(
            outputs, inputs, vector, retain_graph=True, allow_unused=True, materialize_grads=True, **how
        )
        return found

    def push(self, v: Tensor) -> Tensor:
        """J v, `(m,)`, for v `(n,)`."""
        return self._grad(self._pulled, self._dual, v.reshape(self.shape))

    def pull(self, u: Tensor) -> Tensor:
        """Jᵀu, `(n,)`, for u `(m,)`."""
        return self._grad(self._y, self._x, u).flatten()

    @property
    def block_rows(self) -> tuple[int, ...]:
        """Rows of R of each of the `blocks`, known before they are."""
        return (self.rows,)

    def blocks(self, budget: Budget) -> list[Block]:
        """J side by side, columns in the order of the images.

        Raises:
            TimeoutError: If the time is up before all passes are made.
        """
        return [Block(self.matrix(budget))]

    def matrix(self, budget: Budget) -> Tensor:
        """J as a dense matrix, row by row or column by column, whichever are fewer.

        Raises:
            TimeoutError: If the time is up before all passes are made.
        """
        by_rows = self.rows <= self.columns
        count = min(self.rows, self.columns)
        out = torch.empty(count, self.rows + self.columns - count, dtype=self._x.dtype, device=self._x.device)
        for place in _slices(count, self._at_once, budget):
            units = torch.eye(place.stop - place.start, count, dtype=out.dtype, device=out.device).roll(place.start, 1)
            if by_rows:
                out[place] = self._passes(self._y, self._x, units).flatten(1)
            else:
                out[place] = self._passes(self._pulled, self._dual, units.reshape(-1, *self.shape))
        return out if by_rows else out.T

    def _passes(self, outputs: Tensor, inputs: Tensor, vectors: Tensor) -> Tensor:
        """Reverse passes for several vectors: at once, or one by one where an operation cannot be mapped."""
        if self._at_once > 1:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # operations that torch maps one by one itself
                    return self._grad(outputs, inputs, vectors, is_grads_batched=True)
            except RuntimeError:
                self._at_once = 1
        return torch.stack([self._grad(outputs, inputs, vector) for vector in vectors])


def _slices(total: int, size: int, budget: Budget) -> Iterator[slice]:
    done = 0
    for _ in budget.steps(math.ceil(total / size), "limit: Jacobian"):
        yield slice(done, min(done + size, total))
        done += size
    if done < total:
        raise TimeoutError("the time was up")
