"""The Jacobian of a batch that came apart: rows of one image each, and the rows that all images share.

What is known of each image by itself, its features, depends on no other image. Of the m = B·k + s rows only the s that
are gradients of the batch are dense in all images' unknowns, and a reverse pass yields one row of all images at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp, vmap

from leakage_audit.equations.base import ROWS, Equations
from leakage_audit.equations.differentiation import unit_vectors
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class SeparableJacobian:
    """J of `m = B·k + s` equations in `B·n` unknowns, its first `B·k` rows image by image.

    Attributes:
        own: Each image's rows in its own unknowns, `(B, k, n)`.
        shared: `(B, s, n)`, the shared rows' part in each image.

    >>> jacobian = SeparableJacobian(own=torch.tensor([[[1.0]], [[2.0]]]), shared=torch.tensor([[[3.0]], [[4.0]]]))
    >>> jacobian.matrix()
    tensor([[1., 0.],
            [0., 2.],
            [3., 4.]])
    """

    own: Tensor
    shared: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, B·n)`."""
        batch, k, n = self.own.shape
        return batch * k + self.shared.shape[1], batch * n

    def __matmul__(self, move: Tensor) -> Tensor:
        """J times `move (B·n,)`, `(m,)`."""
        parts = move.reshape(len(self.own), -1, 1)
        return torch.cat([(self.own @ parts).flatten(), (self.shared @ parts).sum(0).flatten()])

    def transposed(self, weights: Tensor) -> Tensor:
        """Jᵀ times `weights (m,)`, `(B, n)`."""
        batch, k, _ = self.own.shape
        own, shared = weights[: batch * k].reshape(batch, 1, k), weights[batch * k :]
        return (own @ self.own).squeeze(1) + shared @ self.shared

    def rank(self, tolerance: float) -> int:
        """Number of singular values above a share of the largest row: of the own rows, and of the shared ones beside.

        Args:
            tolerance: The share.
        """
        largest = max(float(rows.square().sum(2).max()) for rows in (self.own, self.shared) if rows.numel()) ** 0.5
        found, size = 0, self.shared.shape[1]
        left = self.own.new_zeros(size, size)
        for own, shared in zip(self.own, self.shared, strict=True):
            q, r = torch.linalg.qr(own.T)
            if len(own) > own.shape[1] or float(r.diagonal().abs().min()) <= tolerance * largest:
                u, values, _ = torch.linalg.svd(r, full_matrices=False)
                q = q @ u[:, values > tolerance * largest]
            rest = shared - (shared @ q) @ q.T
            found, left = found + q.shape[1], left + rest @ rest.T
        return found + int((torch.linalg.eigvalsh(left) > (tolerance * largest) ** 2).sum())

    def matrix(self) -> Tensor:
        """With its zeros, `(m, B·n)`."""
        return torch.cat([torch.block_diag(*self.own), self.shared.transpose(0, 1).flatten(1)])


def linearize_separably(
    equations: Equations, image: Tensor, memory: float, budget: Budget
) -> tuple[Tensor, SeparableJacobian]:
    """F and its Jacobian at `image`, for equations whose first block is each image's own (`Equations.own_rows`).

    Args:
        equations: F.
        image: Where, `(B·n,)`.
        memory: Bytes that the passes may take.
        budget: Time limit.

    Raises:
        TimeoutError: If the time is up before all passes are made.
    """
    batch, k, image = equations.shape[0], equations.own_rows, image.flatten()
    at_once = equations.at_once(memory, equations.options.rows)
    open_rows = k + sum(equations.sizes[1:])
    n, place, values = len(image) // batch, 0, []
    own, shared = image.new_empty(batch, k, n), image.new_empty(batch, open_rows - k, n)
    for i, size in enumerate(equations.sizes):
        value, pull = vjp(lambda x, i=i: equations.residuals(x)[i], image)[:2]
        values.append(value.detach())
        place = 0 if i < 2 else place
        for units in unit_vectors(k if i == 0 else size, at_once, value):
            seeds = units.repeat(1, batch) if i == 0 else units  # of all images at once: they share no row
            budget.foresee(open_rows, ROWS)
            open_rows -= len(units)
            with budget.work(len(units), ROWS):
                rows = vmap(lambda v, pull=pull: pull(v)[0])(seeds).detach()
            (own if i == 0 else shared)[:, place : place + len(units)] = rows.unflatten(1, (batch, n)).transpose(0, 1)
            place += len(units)
    return torch.cat(values), SeparableJacobian(own, shared)
