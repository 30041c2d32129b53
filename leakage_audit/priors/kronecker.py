"""Gaussians over images whose channels come apart in some basis of colours."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leakage_audit.priors.base import LocalGaussian


def channelwise(
    mean: Tensor, basis: Tensor, covariances: Sequence[Tensor], precisions: Callable[[], Sequence[Tensor]]
) -> LocalGaussian:
    """A belief that knows each channel of a rotated image by itself.

    Args:
        mean: `(B, C, H, W)`.
        basis: Orthonormal columns, `(C, C)`: channel k of the rotated image is `basis[:, k]` times the colours.
        covariances: Of each such channel, between pixels, `(B, H·W, H·W)`.
        precisions: Their inverses, made when called.
    """
    size, channels, height, width = mean.shape
    pixels = height * width

    def covariance(rows: Tensor) -> Tensor:
        rows = rows.reshape(-1, size, channels, pixels)
        out = torch.zeros_like(rows)
        for axis, matrix in zip(basis.T, covariances, strict=True):  # one at a time: rows may fill the memory
            part = (torch.einsum("d,mbdp->bmp", axis, rows) @ matrix).transpose(0, 1)
            for channel, share in enumerate(axis.tolist()):
                out[:, :, channel].add_(part, alpha=share)
        return out.reshape(len(rows), -1)

    def precision() -> Tensor:
        per_image = torch.zeros(size, channels * pixels, channels * pixels, dtype=mean.dtype, device=mean.device)
        for axis, matrix in zip(basis.T, precisions(), strict=True):
            colours = torch.outer(axis, axis)
            per_image += torch.stack([torch.kron(colours, between) for between in matrix])
        return torch.block_diag(*per_image)

    diagonals = torch.stack([matrix.diagonal(dim1=1, dim2=2) for matrix in covariances])
    variance = torch.einsum("dk,kbp->bdp", basis.square(), diagonals)
    return LocalGaussian(mean=mean.flatten(), variance=variance.flatten(), covariance=covariance, precision=precision)
