"""A Gaussian prior, fitted to public images of the same kind: an informed attacker (docs/method.md, section 6.3)."""

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor

from leakage_audit.priors.base import LocalGaussian, Prior


class Gaussian:
    """Images drawn from one Gaussian, alone or together with another prior as a product of the two densities.

    Args:
        mean: `(C, H, W)`.
        covariance: `(n, n)` with n = C·H·W.
        beside: Another prior; each density then counts by half, as neither knows of what the other has counted.

    Raises:
        ValueError: If the covariance does not fit the mean, or is not positive definite.

    >>> prior = Gaussian.fit(torch.rand(20, 1, 2, 2))
    >>> prior.mean.shape, prior.covariance.shape
    (torch.Size([1, 2, 2]), torch.Size([4, 4]))
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
    def fit(cls, images: Iterable[Tensor], beside: Prior | None = None, loading: float = 1e-4) -> "Gaussian":
        """Mean and covariance of images and their mirror images.

        Args:
            images: Each `(C, H, W)` with values in [0, 1], all of one shape.
            beside: As for the class.
            loading: Added to each variance: a few thousand images do not fill all directions.

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
        own = _Fitted(image, self.mean.to(image).flatten(), self.covariance.to(image), self._precision.to(image))
        return own if self.beside is None else _Product(own, self.beside.local_gaussian(image))


class _Fitted(LocalGaussian):
    """The same Gaussian for each image of a batch."""

    def __init__(self, image: Tensor, mean: Tensor, covariance: Tensor, precision: Tensor) -> None:
        super().__init__(image)
        self._mean, self._covariance, self._precision = mean, covariance, precision

    @property
    def mean(self) -> Tensor:
        return self._mean.repeat(len(self.image))

    def precision(self, v: Tensor) -> Tensor:
        return (v.reshape(len(self.image), -1) @ self._precision).flatten()

    def preconditioner(self, data: float) -> Callable[[Tensor], Tensor]:
        """The exact inverse."""
        matrix = self._precision.clone()
        matrix.diagonal().add_(data)
        lower = torch.linalg.cholesky(matrix)
        return lambda v: torch.cholesky_solve(v.reshape(len(self.image), -1).T, lower).T.flatten()

    def precision_matrix(self) -> Tensor:
        return torch.block_diag(*[self._precision] * len(self.image))

    def covariance(self, rows: Tensor) -> Tensor:
        return (rows.reshape(len(rows), len(self.image), -1) @ self._covariance).reshape(len(rows), -1)

    @property
    def variance(self) -> Tensor:
        return self._covariance.diagonal().repeat(len(self.image))


class _Product(LocalGaussian):
    """The product of two densities, each to the power of a half."""

    def __init__(self, own: _Fitted, other: LocalGaussian) -> None:
        super().__init__(own.image)
        self._own, self._other = own, other

    @cached_property
    def mean(self) -> Tensor:
        right = self._own.precision(self._own.mean) + self._other.precision_matrix() @ self._other.mean
        return self.covariance(right[None] / 2)[0]

    @cached_property
    def gradient(self) -> Tensor:
        return (self._own.gradient + self._other.gradient) / 2

    def precision(self, v: Tensor) -> Tensor:
        return (self._own.precision(v) + self._other.precision(v)) / 2

    def preconditioner(self, data: float) -> Callable[[Tensor], Tensor]:
        """The exact inverse with the other density's precision levelled out to a number."""
        inverse = self._own.preconditioner(self._other.level + 2 * data)
        return lambda v: 2 * inverse(v)

    def precision_matrix(self) -> Tensor:
        return (self._own.precision_matrix() + self._other.precision_matrix()) / 2
