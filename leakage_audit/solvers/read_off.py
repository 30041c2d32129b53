"""Images that a layer is fed as they are, entry by entry in any order: known inputs of such a layer are the images.

The first layer of a fully connected network gives them away, and so does a transformer's patch embedding.
"""

import math
from contextlib import suppress

import torch
from torch import Tensor, nn

from leakage_audit.equations.base import Equations, rms
from leakage_audit.equations.batch_separation import SeparatedBatch
from leakage_audit.equations.chain import ChainEquations
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.matching.objective import Candidates
from leakage_audit.observation import Observation, per_channel
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.options import SolverOptions
from leakage_audit.solvers.stopping import Status


def read_off(batch: Equations, seen: Observation, separated: SeparatedBatch) -> Solution | None:
    """A separated layer's inputs as images, where they are these: a solver would only copy them.

    Args:
        batch: The equations of all images, which tell the residual.
        seen: What leaked of the batch, from a network that ends in the layer by which it was separated.
        separated: What follows of each image.

    Returns:
        None if the layer is fed anything else than the network's own input, entry by entry.
    """
    places = _places(seen, separated.layer)
    if places is None:
        return None
    shape = (len(separated.features), *seen.input_shape)
    image = seen.to_image(separated.features[:, places].reshape(shape))
    std = (separated.noise[:, None, None, None] * per_channel(seen.std, image)).expand(shape)
    r = batch.residual(image.flatten())
    return Solution(image.flatten(), r, std.flatten(), rank=image.numel(), steps=0, status=Status.EACH_SOLVED)


def read_off_chain(equations: ChainEquations, options: SolverOptions) -> Solution | None:
    """A chain's image as its first layer's system gives it, held against all equations.

    Args:
        equations: Of a chain whose layers were all solved by themselves.
        options: What counts as solved.

    Returns:
        None if that system does not determine the image, or its solution leaves a residual.
    """
    if equations.solution is None:
        return None
    value, noise = equations.solution
    image = equations.seen.to_image(value.reshape(equations.shape))
    r = equations.evaluate(image)
    if rms(r) > max(options.stopping.solved, options.stopping.noise * rms(equations.noise.clamp_min(options.floor))):
        return None
    std = (noise * per_channel(equations.seen.std, image)).expand(equations.shape)
    return Solution(image.flatten(), r, std.flatten(), rank=image.numel(), steps=0, status=Status.EACH_LAYER)


def read_off_one(equations: RecoveredInputEquations, shared: Observation, matched: float) -> Solution | None:
    """A known input as the image, where it is this; solved if the gradients bear it out.

    Args:
        equations: What is known of one image's inputs.
        shared: What leaked of it, in the type in which it was shared.
        matched: Largest distance between its gradient and the one observed, relative to the latter.

    Returns:
        None if the layer is fed anything else than the image.
    """
    seen, layer = equations.seen, equations.end
    places = None if layer.input.basis is not None else _places(seen, layer.name)
    if places is None:
        return None
    value, noise = (
        layer.input.arrangement.input(t).flatten()[places].reshape(1, *seen.input_shape)
        for t in (layer.input.value, layer.input.noise)
    )
    image = seen.to_image(value)
    r, status = equations.residual(image.flatten()), Status.READ_OFF
    with suppress(ValueError):  # no labels to be had
        candidates = Candidates(shared, equations.budget)
        found = candidates.gradients(shared.to_input(image.to(shared.dtype)), labels_for(shared)[0])
        apart = torch.cat([(g - t).detach().flatten() for g, t in zip(found, candidates.targets, strict=True)])
        r = apart / torch.cat([t.flatten() for t in candidates.targets]).square().mean().sqrt()
        status = Status.READ_OFF if rms(r) <= matched else Status.CONTRADICTED
    std = (noise * per_channel(seen.std, noise)).flatten()
    return Solution(image.flatten(), r, std, rank=image.numel(), steps=0, status=status)


class _Reached(Exception):
    """The forward pass has come as far as it needs to."""


def _places(seen: Observation, layer: str) -> Tensor | None:
    """Where in a layer's input each entry of the network's stands, `(n,)`; None if the input is anything else."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *seen.input_shape, generator=generator, dtype=seen.dtype).to(seen.device)  # no two are equal
    fed: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        fed.append(inputs[0])
        raise _Reached

    handle = seen.network.get_submodule(layer).register_forward_pre_hook(keep)
    try:
        with torch.no_grad(), suppress(_Reached):
            seen.network(x)
    finally:
        handle.remove()
    if not fed or fed[0].numel() != x.numel() or len(fed[0]) != 2:
        return None
    places = torch.empty(math.prod(seen.input_shape), dtype=torch.long, device=x.device)
    places[x[0].flatten().argsort()] = fed[0][0].flatten().argsort()
    return places if torch.equal(fed[0].flatten(1)[:, places], x.flatten(1)) else None
