"""A network recovered from its end, from the layer that separated a batch, or from a convolution's own gradient.

Each gives a place where every image's value and derivative are known; `backward_recovery` walks down from there. Where
a walk from the last layer sticks, as behind an average pooling, a convolution that tells its inputs by itself
(`convolution_separation`) opens what lies below: those nearest the image are tried first, until one is known well
enough to lead to the image. Where none has the rank for that, the pattern of the last rectifier of a single image is
found by itself (`pooled_pattern`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from leakage_audit.equations.backward_recovery import recover_backwards
from leakage_audit.equations.batch_separation import SeparatedBatch
from leakage_audit.equations.binary_factor import PooledPatternOptions
from leakage_audit.equations.convolution_certificate import CertificateOptions, CertifiedInputs, certify
from leakage_audit.equations.convolution_separation import (
    ConvolutionSeparationOptions,
    geometries_of,
    separate_convolution,
)
from leakage_audit.equations.known_inputs import (
    Known,
    RecoveredInput,
    RecoveryOptions,
    known_at_the_end,
    nearest_the_image,
)
from leakage_audit.equations.pooled_maxima import PooledMaximaOptions
from leakage_audit.equations.pooled_pattern import pooled_pattern
from leakage_audit.networks.dataflow import Dataflow, read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget, OutOfTime


@dataclass(frozen=True)
class NetworkRecoveryOptions(Checked):
    """How a network is recovered.

    Attributes:
        separation: When a convolution's inputs count as told apart.
        certificate: When they are certified.
        walk: How it is told what is known below.
        pooled: How the last rectifier's pattern is found behind an average pooling.
        maxima: How the choices of a max pooling are found.
        spare: Convolutions are tried that have at least this many input channels a position of all images.
        slack: Relative residual up to which an input fits below a certified convolution, in errors of the gradients
            above it: these tell how well the step's own rounding let them be known.
    """

    separation: ConvolutionSeparationOptions = field(default_factory=ConvolutionSeparationOptions)
    certificate: CertificateOptions = field(default_factory=CertificateOptions)
    walk: RecoveryOptions = field(default_factory=RecoveryOptions)
    pooled: PooledPatternOptions = field(default_factory=PooledPatternOptions)
    maxima: PooledMaximaOptions = field(default_factory=PooledMaximaOptions)
    spare: float = 1.0
    slack: float = 5.0

    def __post_init__(self) -> None:
        self.check(positive=("spare", "slack"))


def recover_network(
    seen: Observation,
    relative_error: float,
    rounding: float,
    separated: SeparatedBatch | None,
    budget: Budget,
    max_memory_gb: float,
    options: NetworkRecoveryOptions | None = None,
) -> tuple[str, list[RecoveredInput]] | None:
    """The inputs of layers that follow from the gradients alone, as many numbers as unknowns at least.

    Args:
        seen: What leaked, in float64.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        rounding: Relative rounding of the gradients' own type.
        separated: What a fully connected layer gives away of each image of a batch, where it does.
        budget: Limits of time and memory.
        max_memory_gb: Memory that a convolution's null space may take.
        options: How hard to try.

    Returns:
        The layer where the walk started and what it found; None if that is less than the images' own number of entries.

    Raises:
        OverBudget: If there is no time or memory to begin with.
    """
    options = options or NetworkRecoveryOptions()
    budget.check()
    start = known_at_the_end(seen, relative_error)
    if separated is not None:
        start = Known(separated.layer, separated.delta, separated.features, separated.noise)
    flow = read_dataflow(stateless(seen.network))
    if start is not None:
        found = recover_backwards(seen, relative_error, options=options.walk, start=start, budget=budget, flow=flow)
        if _enough(found[1:], seen):
            return start.layer, found
    # The one nearest the image is the shortest way, but its inputs may be known too coarsely for it.
    told = False
    for certified in certified_convolutions(seen, rounding, budget, max_memory_gb, options, flow):
        told, found = True, _below_certified(seen, flow, certified, relative_error, budget, options)
        if _enough(found, seen):
            return certified.layer, found
    if told or start is None or flow is None:
        return None
    return _behind_pooling(seen, flow, start, relative_error, budget, options)


def _below_certified(
    seen: Observation,
    flow: Dataflow | None,
    certified: CertifiedInputs,
    relative_error: float,
    budget: Budget,
    options: NetworkRecoveryOptions,
) -> list[RecoveredInput]:
    """The walk from a convolution that told its inputs."""
    inputs = options.walk.inputs
    inputs = replace(inputs, consistent=max(inputs.consistent, options.slack * certified.error))
    walk = replace(options.walk, inputs=inputs)
    noise = certified.noise * certified.inputs.flatten(1).square().mean(1).sqrt()
    start = Known(certified.layer, certified.input_gradients, certified.inputs, noise, of_input=True)
    return recover_backwards(seen, relative_error, options=walk, start=start, budget=budget, flow=flow)


def _behind_pooling(
    seen: Observation, flow: Dataflow, start: Known, relative_error: float, budget: Budget,
    options: NetworkRecoveryOptions,
) -> tuple[str, list[RecoveredInput]] | None:  # fmt: skip
    """The walk from the last layer, through the average pooling that it stuck at."""
    patterns = pooled_pattern(seen, flow, start, options.walk, options.pooled, budget)
    if not patterns:
        return None
    found = recover_backwards(
        seen, relative_error, options=options.walk, start=start, budget=budget, patterns=patterns, flow=flow
    )
    return (start.layer, found) if _enough(found[1:], seen) else None


def certified_convolutions(
    seen: Observation,
    rounding: float,
    budget: Budget,
    max_memory_gb: float,
    options: NetworkRecoveryOptions,
    flow: Dataflow | None,
) -> Iterator[CertifiedInputs]:
    """The inputs of convolutions that tell them by themselves and are certified, those nearest the image first.

    Raises:
        OutOfTime: If there is none left for one image's.
    """
    candidates = _candidates(seen, flow, options.spare) if flow is not None and seen.class_targets else []
    if flow is None or not candidates:
        return
    late: OutOfTime | None = None
    told, geometries = False, geometries_of(seen)
    for name in candidates:
        if budget.exhausted:
            return
        try:
            geometry = geometries.get(name)
            found = separate_convolution(seen, name, rounding, options.separation, budget, max_memory_gb, geometry)
            certified = None if found is None else certify(seen, flow, found, options.certificate, budget)
        except OutOfTime as error:
            late = error
            continue
        if certified is not None and certified.scaled:
            told = True
            yield certified
    # A first-order recipe makes more of what is left than other equations.
    if late is not None and seen.batch_size == 1 and not told:
        raise late


def _candidates(seen: Observation, flow: Dataflow, spare: float) -> list[str]:
    """Convolutions with enough channels through whose inputs alone the images count, those nearest the image first."""
    grey = torch.full((1, *seen.input_shape), 0.5, dtype=seen.dtype, device=seen.device)
    with torch.no_grad():
        values = flow.forward({flow.image: seen.to_input(grey).expand(2, -1, -1, -1)})
    names = {module: name for name, module in flow.network.named_modules() if isinstance(module, nn.Conv2d)}
    found = []
    for call in flow.nodes:
        module = flow.module(call)
        if not isinstance(module, nn.Conv2d) or module not in names:
            continue
        node = flow.fed(names[module])
        if node is None or module.groups > 1 or max(module.kernel_size) == 1 or max(module.stride) > 1:
            continue
        _, channels, height, width = values[node].shape
        if channels >= spare * seen.batch_size * height * width and height * width > 1 and flow.is_cut(node):
            found.append(names[module])
    return found


def _enough(found: list[RecoveredInput], seen: Observation) -> bool:
    """Whether the known inputs nearest the image have as many entries as the images; fewer say less than gradients."""
    known = [layer.input.value.numel() for layer in nearest_the_image(found) if layer.input.basis is None]
    return sum(known) >= seen.batch_size * math.prod(seen.input_shape)
