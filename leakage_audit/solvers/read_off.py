"""Images that a separated layer is fed as they are: the first layer of a fully connected network gives them away."""

import math

import torch
from torch import nn

from leakage_audit.equations.base import Equations
from leakage_audit.equations.batch_separation import SeparatedBatch
from leakage_audit.observation import Observation, per_channel
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.stopping import Status


def read_off(batch: Equations, seen: Observation, separated: SeparatedBatch) -> Solution | None:
    """The layer's inputs in the shape of images, where they are the images: a solver would only copy them.

    Args:
        batch: The equations of all images, which tell the residual.
        seen: What leaked of the batch, from a network that ends in the layer by which it was separated.
        separated: What follows of each image.

    Returns:
        None if the layer is fed anything else than the network's own input, entry by entry.
    """
    shape = (len(separated.features), *seen.input_shape)
    if separated.features.shape[1] != math.prod(seen.input_shape) or not _reads_the_image(seen, separated.layer):
        return None
    image = seen.to_image(separated.features.reshape(shape))
    std = (separated.noise[:, None, None, None] * per_channel(seen.std, image)).expand(shape)
    r = batch.residual(image.flatten())
    return Solution(image.flatten(), r, std.flatten(), rank=image.numel(), steps=0, status=Status.EACH_SOLVED)


def _reads_the_image(seen: Observation, layer: str) -> bool:
    """Whether the layer's input is the network's, flattened, at inputs of which no two entries are equal."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *seen.input_shape, generator=generator, dtype=seen.dtype).to(seen.device)
    fed: list[bool] = []

    def compare(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        fed.append(torch.equal(inputs[0], x.flatten(1)))

    handle = seen.network.get_submodule(layer).register_forward_hook(compare)
    try:
        with torch.no_grad():
            seen.network(x)
    finally:
        handle.remove()
    return fed == [True]
