"""What an optimiser of Opacus' is about to share: clipped, summed and noised by its own hands, and then put back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leakage_audit.defences.clip_per_sample import ClipPerSample
from leakage_audit.defences.shared import Shared


def about_to_share(optimizer: Any, names: Mapping[str, nn.Parameter]) -> Shared:
    """What the next step of a `DPOptimizer` will share; nothing is changed by looking, its random numbers included.

    Where it has no generator of its own, the noise comes from the global streams, and is the step's own only if they
    are as they will be then.

    Args:
        optimizer: After the backward pass; its gradients are averaged over the expected batch size.
        names: The parameters by name; those that are not the optimiser's are left out.

    Raises:
        ValueError: If the batch held no image, or is only a part of the step's.
    """
    everything: list[Any] = optimizer.params
    own = {id(p) for p in everything}
    mine: dict[str, Any] = {name: p for name, p in names.items() if id(p) in own}
    unfinished = optimizer._check_skip_next_step(pop_next=False)  # the batch's first part has nothing summed yet
    if unfinished or any(p.summed_grad is not None or len(_parts(p.grad_sample)) > 1 for p in everything):
        raise ValueError("the step's batch comes in several parts (BatchMemoryManager, or accumulated gradients)")
    samples = {name: optimizer._get_flat_grad_sample(p) for name, p in mine.items()}
    if not len(next(iter(samples.values()))):
        raise ValueError("the batch that was sampled holds no image")
    before = [p.grad for p in everything]
    generator = optimizer.generator
    state = None if generator is None else generator.get_state()
    with torch.random.fork_rng([p.device for p in everything[:1] if p.device.type == "cuda"]):
        optimizer.clip_and_accumulate()
        optimizer.add_noise()
        optimizer.scale_grad()
    found = {name: p.grad.detach().clone() for name, p in mine.items()}
    if generator is not None:
        generator.set_state(state)
    for p, gradient in zip(everything, before, strict=True):
        p.grad, p.summed_grad = gradient, None
        for tensor in _parts(p.grad_sample):
            del tensor._processed
    bound, count = optimizer.max_grad_norm, optimizer.expected_batch_size
    factors = ClipPerSample(bound).factors(samples) * (len(next(iter(samples.values()))) / count)
    std = optimizer.noise_multiplier * bound / count
    return Shared.of(found, factors).changed(found, {name: g.new_full(g.shape, std) for name, g in found.items()})


def _parts(grad_sample: Any) -> list[Any]:
    return grad_sample if isinstance(grad_sample, list) else [] if grad_sample is None else [grad_sample]
