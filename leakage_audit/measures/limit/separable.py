"""J of a batch whose images do not mix, made of each image's own.

The shared gradient is a sum over the images, and image i changes only its own term. The few functionals that determine
every change of that term (`compression`; a thousand for a network of six thousand parameters) determine what it
changes of the sum's functionals,

    J = [L_1 R_1, …, L_B R_B],        R_i = Φ_i ∂g_i/∂x_i,  L_i = Φ Φ_iᵀ  (sparse),

so that passes go through one image instead of the batch, and `J C Jᵀ = Σ L_i (R_i C_i R_iᵀ) L_iᵀ` costs the sum of
single images' problems instead of its square.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.measures.limit.compression import Entries, Functionals
from leakage_audit.measures.limit.linearized_gradient import Block, LinearizedGradient
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.runtime import Budget


class SeparableGradient(LinearizedGradient):
    """As `LinearizedGradient`, of a batch.

    Args:
        images: `(B, C, H, W)`.
        gradient: ∂L/∂p by name as a function of them, differentiable.
        single: The same of image i alone, the others fixed.
        std: Standard deviation of each gradient's entries.
        footprint: About how many numbers one reverse pass keeps.
        options: Of the limit.
    """

    def __init__(
        self,
        images: Tensor,
        gradient: Callable[[Tensor], dict[str, Tensor]],
        single: Callable[[int], LinearizedGradient],
        std: Mapping[str, Tensor],
        footprint: int,
        options: LimitOptions,
    ) -> None:
        super().__init__(images, gradient, std, footprint, options)
        self._single = single

    @cached_property
    def _separable(self) -> bool:
        """Whether functionals of single images tell all; the first image speaks for the others."""
        return not self.summed and self.rows <= self.columns and not self._first.summed

    @cached_property
    def _first(self) -> LinearizedGradient:
        return self._single(0)

    @property
    def block_rows(self) -> tuple[int, ...]:
        """Rows of R of each of the `blocks`, known before they are."""
        return (self._first.rows,) * self.shape[0] if self._separable else super().block_rows

    def blocks(self, budget: Budget) -> list[Block]:
        """J side by side, an image each, or in one where the loss binds the images together after all."""
        if not self._separable:
            return super().blocks(budget)
        found = []
        for i in range(self.shape[0]):
            one = self._first if i == 0 else self._single(i)
            if one.summed:
                return super().blocks(budget)
            found.append(Block(one.matrix(budget), spread(self.functionals, one.functionals)))
        return found if self._same(found) else super().blocks(budget)

    def _same(self, blocks: list[Block]) -> bool:
        """Whether a random change of the images changes the same by the blocks."""
        generator = torch.Generator().manual_seed(self.options.seed)
        v = torch.randn(self.columns, generator=generator, dtype=torch.float64).to(self._x.device)
        whole = self.push(v)
        parts = sum(
            b.lift((b.rows @ part)[:, None])[:, 0] for b, part in zip(blocks, v.chunk(len(blocks)), strict=True)
        )
        return float((whole - parts).norm()) <= self.options.numerics.outside * float(whole.norm())


def spread(whole: Mapping[str, Functionals], single: Mapping[str, Functionals], at_once: int = 64) -> Tensor:
    """`Φ Φ_iᵀ`, `(m, r)`, sparse: what values of one image's functionals are as values of the batch's.

    Args:
        whole: The batch's functionals by name.
        single: The image's, invertible, by name.
        at_once: Values at a time; a gradient is formed for each.
    """
    places, values, row, column = [], [], 0, 0
    for name, to in whole.items():
        of = single[name]
        if isinstance(to, Entries) and isinstance(of, Entries):
            size = to.shape.numel()
            local = torch.arange(size).expand(2, -1)
            part, height, width = torch.ones(size, dtype=torch.float64), size, size
        else:
            dense = _product(to, of, at_once)
            local = dense.nonzero().T
            part, (height, width) = dense[local[0], local[1]], dense.shape
        places.append(local + torch.tensor([[row], [column]], device=local.device))
        values.append(part)
        row, column = row + height, column + width
    device = next((v.device for v in values if v.device.type != "cpu"), torch.device("cpu"))
    index = torch.cat([p.to(device) for p in places], 1)
    numbers = torch.cat([v.to(device) for v in values])
    found = torch.sparse_coo_tensor(index, numbers, (row, column), check_invariants=True).coalesce()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # compressed rows, four times as fast, are "in beta state"
        return found.to_sparse_csr()


def _product(to: Functionals, of: Functionals, at_once: int) -> Tensor:
    """`Φ Φ_iᵀ` of one gradient, `(m, r)`, dense."""
    like = next(t for f in (to, of) for t in vars(f).values() if isinstance(t, Tensor))
    units = torch.eye(len(of), dtype=like.dtype, device=like.device)
    return torch.cat([to(of.transpose(part)) for part in units.split(at_once)]).T
