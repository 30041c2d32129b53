"""A training step as the auditor knows it, and how precisely its gradient is known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakage_audit.equations.base import rms
from leakage_audit.measures.limit.options import LimitOptions
from leakage_audit.networks.stateless import graph_size, stateless
from leakage_audit.observation import Observation


@dataclass(frozen=True)
class Step:
    """A training step as the auditor knows it: the observation, and the batch that it came from.

    Attributes:
        seen: What leaked, in float64.
        network: Its network as a function of the images alone.
        images: `(B, C, H, W)`, in float64, in image space.
        labels: `(B,)`.
        same: Relative difference of scores that is rounding.
    """

    seen: Observation
    network: nn.Module
    images: Tensor
    labels: Tensor
    same: float = 1e-9

    @classmethod
    def of(cls, seen: Observation, images: Tensor, labels: Tensor, options: LimitOptions) -> "Step":
        """From what leaked in any type."""
        seen = seen.to(torch.float64)
        images = images.detach().to(seen.device, torch.float64)
        return cls(seen, stateless(seen.network), images, labels.to(seen.device), options.numerics.same)

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
        return float((together - alone).abs().max()) > self.same * float(together.abs().max())

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


def noise_of(step: Step, dtype: torch.dtype, options: LimitOptions) -> dict[str, Tensor]:
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
    return graph_size(step.network, lambda: step.scores({}, images), step.seen.gradients.values())
