"""Which equations: where a batch is told apart, and what is the straightest that one image's network allows."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.equations.autograd import AutogradEquations, AutogradOptions
from leakage_audit.equations.base import Equations
from leakage_audit.equations.batch_separation import SeparatedBatch, SeparationOptions, separate_batch
from leakage_audit.equations.below_max_pooling import below_max_pooling
from leakage_audit.equations.count_sketch import SketchOptions
from leakage_audit.equations.hidden_separation import HiddenSeparation, HiddenSeparationOptions, separate_hidden
from leakage_audit.equations.known_inputs import RecoveredInput
from leakage_audit.equations.layer_peeling import PeelingOptions, peel_layers
from leakage_audit.equations.network_above import network_below
from leakage_audit.equations.network_recovery import NetworkRecoveryOptions, recover_network
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.equations.watched_recovery import watch_backwards
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation, copy_network
from leakage_audit.runtime import Budget


def equations_of_one(
    seen: Observation,
    relative_error: float,
    sketch: SketchOptions | None = None,
    peeling: PeelingOptions | None = None,
    recovery: NetworkRecoveryOptions | None = None,
    autograd: AutogradOptions | None = None,
    budget: Budget | None = None,
    rounding: float | None = None,
    max_memory_gb: float = 1.0,
) -> Equations:
    """One image's: those of a chain that Lemma 3.1 opens, of a network that opens from its end, or its gradient.

    Args:
        seen: What leaked of one image, in float64.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        sketch: How many of the equations are kept.
        peeling: When a chain's layer is solved by itself.
        recovery: How hard to try to recover the network.
        autograd: Which of a gradient's entries are taken for rounding.
        budget: Limits of time and memory; none by default.
        rounding: Relative rounding of the gradients' own type; a quarter of the relative error by default.
        max_memory_gb: Memory that a recovery may take.

    Raises:
        ValueError: If labels are needed and cannot be inferred, or the gradients give nothing.
    """
    if seen.noise:  # known to the entry: what is fitted to all of it errs less than what is solved layer by layer
        return AutogradEquations(seen, relative_error, sketch=sketch)
    try:
        return peel_layers(seen, relative_error, peeling, budget)
    except UnreadableNetwork:
        rounding = relative_error / 4 if rounding is None else rounding
        recovery, budget = recovery or NetworkRecoveryOptions(), budget or Budget()
        opened = recover_network(seen, relative_error, rounding, None, budget, max_memory_gb, recovery)
        if opened is not None:
            recovered = opened[1] + _below(seen, opened[1], recovery, budget)
            return RecoveredInputEquations(seen, recovered, relative_error, sketch, budget)
        last = last_layer(seen)
        found = watch_backwards(seen, relative_error, options=recovery.walk, budget=budget)
        recovered = [layer for layer in found if last is None or layer.name != last.name]
        whole = [layer for layer in recovered if layer.input.basis is None]
        if below := _below(seen, recovered, recovery, budget):
            return RecoveredInputEquations(seen, recovered + below, relative_error, sketch, budget)
        # Unless all above it depends on the image by way of it alone, a known input may say less than all gradients.
        if whole and (
            (whole[-1].is_bottleneck and whole[-1].input_gradient is not None)
            or whole[-1].input.value.numel() >= math.prod(seen.input_shape)
        ):
            return RecoveredInputEquations(seen, recovered, relative_error, sketch, budget)
        parts = [layer for layer in recovered if layer.input.arrangement.one_block]  # straight in the image, mostly
        plenty = not recovered and bool(found) and found[0].input.value.numel() >= math.prod(seen.input_shape)
        last_input = found[0] if plenty else None
        return AutogradEquations(seen, relative_error, None, sketch, autograd, budget, parts, last_input)


def _below(
    seen: Observation, recovered: list[RecoveredInput], options: NetworkRecoveryOptions, budget: Budget
) -> list[RecoveredInput]:
    """What a max pooling hides below the lowest input that is known altogether, where its choices are found."""
    whole = [layer for layer in recovered if layer.input.basis is None]
    found = below_max_pooling(seen, whole[-1], options.walk, options.maxima, budget) if whole else None
    return [] if found is None else [found]


def separate(
    seen: Observation,
    relative_error: float,
    rounding: float,
    budget: Budget,
    options: SeparationOptions,
    hidden: HiddenSeparationOptions,
    max_memory_gb: float,
) -> tuple[Observation, SeparatedBatch] | None:
    """A batch told apart, at its last layer or, where that gives too little, at a hidden one.

    A hidden layer lies nearer the image, and its input says all that the last layer's says. Of each image it would
    have shared what a network that ends in it shares (Lemma 3.1 needs no more of a layer than its δ), so that what
    holds for a last layer holds for it in the network cut off above it.

    Args:
        seen: What leaked of several images, in float64.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        rounding: Relative rounding of the gradients' own type.
        budget: Time limit.
        options: How hard to try at the last layer.
        hidden: When a batch counts as told apart at a hidden one.
        max_memory_gb: Memory that the search at a hidden layer may take.

    Returns:
        What leaked as far as the layer that separates the batch, from a network that ends in it, and what this layer
        gives away of each image; None if no layer separates all of them.
    """
    last = separate_batch(seen, relative_error, budget, options)
    if last is not None and last.features.shape[1] >= math.prod(seen.input_shape):
        return seen, last
    if seen.class_targets:
        training = any(module.training for module in seen.network.modules())  # it may count batches as it runs
        searched = replace(seen, network=copy_network(seen.network)) if training else seen
        found = separate_hidden(searched, rounding, hidden, budget, max_memory_gb)
        order = None if found is None or not found.complete else _order(found.labels, seen.labels)
        below = None if found is None else network_below(seen.network, found.layer)
        if found is not None and order is not None and below is not None:
            own = dict(below.named_parameters())
            gradients = {name: g for name, g in seen.gradients.items() if name in own}
            return replace(seen, network=below, gradients=gradients), _in_order(found, order)
    return None if last is None else (seen, last)


def _order(found: Tensor, granted: Tensor | None) -> Tensor | None:
    """Places of the labels found in the order of those granted; None where they are others."""
    if granted is None:
        return torch.arange(len(found), device=found.device)
    places = torch.empty_like(found)
    places[granted.argsort(stable=True)] = found.argsort(stable=True)
    return places if torch.equal(found[places], granted) else None


def _in_order(found: HiddenSeparation, order: Tensor) -> SeparatedBatch:
    return SeparatedBatch(
        found.layer, found.delta[order], found.features[order], found.noise[order], found.labels[order]
    )
