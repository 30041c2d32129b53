"""Gaussians over images whose channels are independent in some basis of colours (docs/method.md, section 6.1)."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.priors.base import LocalGaussian


class ChannelwiseGaussian(LocalGaussian):
    """A Gaussian that knows each channel of a rotated image by itself: matrices between pixels, not between entries.

    Args:
        image: Where it stands for the prior, `(B, C, H, W)`.
        basis: Orthonormal columns, `(C, C)`: channel k of the rotated image is `basis[:, k]` times the colours.
    """

    def __init__(self, image: Tensor, basis: Tensor) -> None:
        super().__init__(image)
        self._basis = basis

    @abstractmethod
    def precisions(self) -> list[Tensor]:
        """Of each rotated channel, between pixels, `(B, H·W, H·W)`."""

    @abstractmethod
    def covariances(self) -> list[Tensor]:
        """Their inverses."""

    @cached_property
    def roots(self) -> list[Tensor]:
        """Cholesky factors of the precisions, lower ones."""
        return [torch.linalg.cholesky(matrix) for matrix in self.precisions()]

    def covariance_times(self, v: Tensor) -> Tensor:
        """P⁻¹ times `v (n,)`."""
        size, channels, height, width = self.image.shape
        rotated = torch.einsum("dk,bdp->kbp", self._basis, v.reshape(size, channels, height * width))
        solved = [torch.cholesky_solve(u[..., None], root)[..., 0] for u, root in zip(rotated, self.roots, strict=True)]
        return torch.einsum("dk,kbp->bdp", self._basis, torch.stack(solved)).flatten()

    def times_root(self, rows: Tensor) -> Tensor:
        """`rows (m, n)` times a Q with `Q Qᵀ = P⁻¹`: its columns by rotated channel."""
        size, channels, height, width = self.image.shape
        rows = rows.reshape(-1, size, channels, height * width)
        out = rows.new_empty(channels, size, len(rows), height * width)
        for k, root in enumerate(self.roots):
            part = torch.einsum("d,mbdp->bmp", self._basis[:, k], rows)
            torch.linalg.solve_triangular(root.mT, part, upper=True, left=False, out=out[k])
        return out.permute(2, 0, 1, 3).reshape(len(rows), -1)

    def covariance(self, rows: Tensor) -> Tensor:
        """`rows (m, n)` times the covariance."""
        size, channels, height, width = self.image.shape
        rows = rows.reshape(-1, size, channels, height * width)
        out = torch.zeros_like(rows)
        for axis, matrix in zip(self._basis.T, self.covariances(), strict=True):  # one at a time: rows may fill memory
            part = (torch.einsum("d,mbdp->bmp", axis, rows) @ matrix).transpose(0, 1)
            for channel, share in enumerate(axis.tolist()):
                out[:, :, channel].add_(part, alpha=share)
        return out.reshape(len(rows), -1)

    def precision_matrix(self) -> Tensor:
        """As a sum of Kronecker products, `(n, n)`."""
        size, channels, height, width = self.image.shape
        per_image = self.image.new_zeros(size, channels * height * width, channels * height * width)
        for axis, matrix in zip(self._basis.T, self.precisions(), strict=True):
            colours = torch.outer(axis, axis)
            per_image += torch.stack([torch.kron(colours, between) for between in matrix])
        return torch.block_diag(*per_image)

    @property
    def variance(self) -> Tensor:
        """Diagonal of the covariance, `(n,)`."""
        diagonals = torch.stack([matrix.diagonal(dim1=1, dim2=2) for matrix in self.covariances()])
        return torch.einsum("dk,kbp->bdp", self._basis.square(), diagonals).flatten()
