"""A Gaussian prior, fitted to public images of the same kind: an informed attacker."""

from collections.abc import Iterable

import torch
from torch import Tensor

from leakage_audit.priors.base import LocalGaussian, Prior

LOADING = 1e-4  # variance added to each entry: a few thousand images do not fill all directions


class Gaussian:
    """Images drawn from one Gaussian, alone or together with another prior as a product of the two densities.

    Args:
        mean: `(C, H, W)`.
        covariance: `(n, n)` with n = C·H·W.
        beside: Another prior; each density then counts by half, as neither knows of what the other has counted.

    Raises:
        ValueError: If the covariance does not fit the mean, or is not positive definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, beside: Prior | None = None) -> None:
        n = mean.numel()
        if covariance.shape != (n, n):
            raise ValueError(f"a mean of {n} numbers needs a covariance ({n}, {n}), got {tuple(covariance.shape)}")
        self.mean, self.covariance, self.beside = mean.double(), covariance.double(), beside
        lower, failed = torch.linalg.cholesky_ex(self.covariance)
        if failed:
            raise ValueError("the covariance is not positive definite: fit it to more images, or with more loading")
        self._precision = torch.cholesky_inverse(lower)

    @classmethod
    def fit(cls, images: Iterable[Tensor], beside: Prior | None = None, loading: float = LOADING) -> "Gaussian":
        """Mean and covariance of images and their mirror images.

        Args:
            images: Each `(C, H, W)` with values in [0, 1], all of one shape.
            beside: As for the class.
            loading: Added to each variance.

        Raises:
            ValueError: If there are no images or their shapes differ.
        """
        total, square, count, shape = torch.zeros(0), torch.zeros(0), 0, torch.Size()
        batch: list[Tensor] = []

        def take() -> None:
            nonlocal total, square, count
            rows = torch.stack(batch).double()
            rows = torch.cat([rows, rows.flip(-1)]).flatten(1)
            if not count:
                total, square = rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1], rows.shape[1])
            total, square, count = total + rows.sum(0), square.addmm_(rows.T, rows), count + len(rows)
            batch.clear()

        for image in images:
            if shape and image.shape != shape:
                raise ValueError(f"images must have one shape, got {tuple(shape)} and {tuple(image.shape)}")
            shape = image.shape
            batch.append(image)
            if len(batch) == 256:
                take()
        if batch:
            take()
        if not count:
            raise ValueError("there are no images to fit a Gaussian to")
        mean = total / count
        covariance = square / count - torch.outer(mean, mean)
        covariance.diagonal().add_(loading)
        return cls(mean.reshape(shape), covariance, beside)

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """The same Gaussian everywhere, or its product with the one that stands for the other prior here.

        Raises:
            ValueError: If the images have another shape than those it was fitted to.
        """
        if image.shape[1:] != self.mean.shape:
            raise ValueError(f"the prior knows images of {tuple(self.mean.shape)}, not of {tuple(image.shape[1:])}")
        size = len(image)
        mean = self.mean.to(image).flatten().repeat(size)
        precision = torch.block_diag(*[self._precision.to(image)] * size)
        if self.beside is None:
            covariance = self.covariance.to(image)
            return LocalGaussian(
                mean=mean,
                variance=covariance.diagonal().repeat(size),
                covariance=lambda rows: (rows.reshape(len(rows), size, -1) @ covariance).reshape(len(rows), -1),
                precision=lambda: precision,
            )
        other = self.beside.local_gaussian(image)
        theirs = other.precision()
        both = (precision + theirs) / 2
        product = torch.cholesky_inverse(torch.linalg.cholesky(both))
        return LocalGaussian(
            mean=product @ (precision @ mean + theirs @ other.mean) / 2,
            variance=product.diagonal(),
            covariance=lambda rows: rows @ product,
            precision=lambda: both,
        )
