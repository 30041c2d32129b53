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
from torch import Tensor, nn
from torch.func import functional_call

from leakage_audit.equations.base import rms
from leakage_audit.equations.count_sketch import sketch_gradients
from leakage_audit.measures.limit.compression import tangent_functionals
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.networks.stateless import activation_count, stateless
from leakage_audit.observation import Observation
from leakage_audit.runtime import Budget

MOST_PASSES = 16  # reverse passes at a time; beyond this they only leave the processor's cache
SAME = 1e-9  # relative difference of scores in float64 that is rounding
PROBES = 2  # random changes of the images that tell whether a gradient keeps its rank


@dataclass(frozen=True)
class Step:
    """A training step as the auditor knows it: the observation, and the batch that it came from.

    Attributes:
        seen: What leaked, in float64.
        network: Its network as a function of the images alone.
        images: `(B, C, H, W)`, in float64, in image space.
        labels: `(B,)`.
    """

    seen: Observation
    network: nn.Module
    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, seen: Observation, images: Tensor, labels: Tensor) -> "Step":
        """From what leaked in any type."""
        seen = seen.to(torch.float64)
        images = images.detach().to(seen.device, torch.float64)
        return cls(seen, stateless(seen.network), images, labels.to(seen.device))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Leaves of a new graph, by name."""
        own = dict(self.network.named_parameters())
        return {name: own[name].detach().clone().requires_grad_() for name in self.seen.gradients}

    def scores(self, parameters: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Class scores `(B, classes)`."""
        return functional_call(self.network, dict(parameters), (self.seen.to_input(images),))

    def gradients(self, objective: Callable[[Mapping[str, Tensor]], Tensor]) -> dict[str, Tensor]:
        """∂/∂p of an objective of the parameters, differentiable again; zero where it does not depend on p."""
        p = self.parameters
        found = torch.autograd.grad(
            objective(p), list(p.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        return dict(zip(p, found, strict=True))

    def of_batch(self, images: Tensor) -> dict[str, Tensor]:
        """The gradient that these images would share."""
        return self.gradients(lambda p: self.seen.loss(self.scores(p, images), self.labels))

    def of_one(self, i: int, image: Tensor) -> dict[str, Tensor]:
        """The same as a function of image i alone, `(1, C, H, W)`, up to a constant; the others are as they were.

        Where images do not mix, the other images' scores enter the loss as constants.
        """
        if self.images_mix:
            return self.of_batch(torch.cat([self.images[:i], image, self.images[i + 1 :]]))
        scores = self._own_scores  # constants

        def objective(parameters: Mapping[str, Tensor]) -> Tensor:
            own = self.scores(parameters, image)
            return self.seen.loss(torch.cat([scores[:i], own, scores[i + 1 :]]), self.labels)

        return self.gradients(objective)

    @cached_property
    def images_mix(self) -> bool:
        """Whether an image's scores depend on the others', as by batch normalisation in training mode."""
        if len(self.images) == 1:
            return False
        together, alone = self._own_scores, self._alone
        if alone is None:
            return True
        return float((together - alone).abs().max()) > SAME * float(together.abs().max())

    @cached_property
    def _own_scores(self) -> Tensor:
        with torch.no_grad():
            return self.scores({}, self.images)

    @cached_property
    def _alone(self) -> Tensor | None:
        """Scores of each image by itself; None where the network takes no single image."""
        try:
            with torch.no_grad():
                return torch.cat([self.scores({}, image[None]) for image in self.images])
        except ValueError:  # batch normalisation of one value a channel
            return None


class LinearizedGradient:
    """J, `(m, n)`: what a change of the images changes of the shared gradient, each row in units of its noise.

    Args:
        images: The unknowns at the truth, `(B, C, H, W)`; all images of the batch or one.
        gradient: ∂L/∂p by name as a function of them, differentiable.
        std: Standard deviation of each gradient's entries; gradients not named are left out.
        footprint: About how many numbers one reverse pass keeps.
        options: Of the limit.

    Attributes:
        shape: Of the unknowns.
        rows: m.
        columns: n.
    """

    def __init__(
        self,
        images: Tensor,
        gradient: Callable[[Tensor], dict[str, Tensor]],
        std: Mapping[str, float],
        footprint: int,
        options: LimitOptions,
    ) -> None:
        self.shape, self.columns = tuple(images.shape), images.numel()
        self._x = images.detach().clone().requires_grad_()
        found = gradient(self._x)
        values = {name: found[name] / std[name] for name in std}
        values = self._compressed(values, options)
        self._y = torch.cat([value.flatten() for value in values.values()]) if values else self._x.flatten()[:0]
        self.rows = len(self._y)
        self._dual, self._pulled = self._transposed(self._y)
        self._at_once = int(min(max(options.max_memory_gb * 1e9 / 32 / footprint, 1), MOST_PASSES))

    def _compressed(self, values: dict[str, Tensor], options: LimitOptions) -> dict[str, Tensor]:
        """The gradients, or fewer functionals that say as much."""
        generator = torch.Generator().manual_seed(options.seed)
        if any(g.ndim == 2 for g in values.values()):
            flat = torch.cat([g.flatten() for g in values.values()])
            dual, pulled = self._transposed(flat)
            sizes, probes = [g.numel() for g in values.values()], []
            for _ in range(PROBES):
                v = torch.randn(self.shape, generator=generator, dtype=torch.float64).to(flat)
                probes.append(self._grad(pulled, dual, v).split(sizes))
            for name, *changes in zip(list(values), *probes, strict=True):
                g = values[name]
                functionals = tangent_functionals(g.detach(), [d.reshape(g.shape) for d in changes])
                values[name] = g if functionals is None else functionals(g)
        most = int(options.rows_per_unknown * self.columns)
        if sum(g.numel() for g in values.values()) <= most:
            return values
        # Each entry goes into one sum: E[SᵀS] = I, so that JᵀSᵀSJ is on average what all entries tell.
        sums, _ = sketch_gradients({name: g.detach() for name, g in values.items()}, most, 0.0, options.seed)
        return {name: s(g) for s, (name, g) in zip(sums, values.items(), strict=True)}

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


def noise_of(step: Step, dtype: torch.dtype, options: LimitOptions) -> dict[str, float]:
    """Standard deviation of an entry of each gradient that says something.

    Args:
        step: The observed step.
        dtype: The type in which the gradient was shared.
        options: Of the limit.

    Raises:
        ValueError: If the network's gradients are not finite at the images.
    """
    gradients = {name: g.detach() for name, g in step.of_batch(step.images).items()}
    sizes = {name: rms(g) for name, g in gradients.items()}
    largest = max(sizes.values(), default=0.0)
    if not math.isfinite(sum(sizes.values())):
        raise ValueError("the network's own gradients are not finite: do its weights hold NaN?")
    std = options.noise.of(gradients, dtype, options.least_noise)
    return {name: std[name] for name, size in sizes.items() if size > options.cancelled * largest}


def footprint_of(step: Step, alone: bool) -> int:
    """About how many numbers one reverse pass through the gradient keeps, of the batch or of an image alone."""
    images = step.images[:1] if alone and not step.images_mix else step.images
    outputs = activation_count(step.network, lambda: step.scores({}, images))
    return 8 * outputs + 4 * sum(g.numel() for g in step.seen.gradients.values())


def _slices(total: int, size: int, budget: Budget) -> Iterator[slice]:
    done = 0
    for _ in budget.steps(math.ceil(total / size), "limit: Jacobian"):
        yield slice(done, min(done + size, total))
        done += size
    if done < total:
        raise TimeoutError("the time was up")
