"""The walk back through a max pooling: where a known layer is fed by one, what the convolution below it was fed.

A pooling's choice stops `watched_recovery` and `backward_recovery`: which entry of a window was the largest depends on
the image. Where one convolution, its rectifier and the pooling are all there is, the choices follow from the
convolution's own gradient (`pooled_maxima`), and its input is known exactly.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.grad import conv2d_input

from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.equations.convolution_range import reads
from leakage_audit.equations.input_from_gradient import PartialInput
from leakage_audit.equations.known_inputs import RecoveredInput, RecoveryOptions
from leakage_audit.equations.pooled_maxima import FoundInput, PooledMaxima, PooledMaximaOptions
from leakage_audit.equations.pooled_posterior import PooledConvolution
from leakage_audit.networks.dataflow import Dataflow, Values, is_differentiable, read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget, OverBudget


def below_max_pooling(
    seen: Observation,
    known: RecoveredInput,
    walk: RecoveryOptions | None = None,
    options: PooledMaximaOptions | None = None,
    budget: Budget | None = None,
) -> RecoveredInput | None:
    """The input of the convolution whose pooled maxima are known.

    Args:
        seen: What leaked of one image, in float64.
        known: A layer whose input and its derivative are known, and that alone makes the image count.
        walk: How guesses of the image are made.
        options: When choices count as found.
        budget: Limits of time and memory.

    Returns:
        None where something else lies below, or where no choices are found that all equations bear out.
    """
    walk, options, budget = walk or RecoveryOptions(), options or PooledMaximaOptions(), budget or Budget()
    below = pooled_below(seen, known, walk, options)
    if below is None or not below.layer.on.any():
        return None
    n = below.fed[0].numel()
    if n > options.largest or n >= below.layer.gradient.numel():
        return None
    try:
        search = PooledMaxima(below.layer, float(below.fed.mean()), float(below.fed.std()), options)
        found = search.solve(budget)
    except OverBudget:
        return None
    return None if found is None else _recovered(below, found)


@dataclass(frozen=True)
class PooledBelow:
    """A convolution under a max pooling.

    Attributes:
        name: Its.
        module: Itself.
        of_image: Whether the image itself feeds it.
        fed: What it is fed at pictures, `(pictures, c_in, H, W)`.
        size: Height and width of its output.
        layer: What is known of it.
    """

    name: str
    module: nn.Conv2d
    of_image: bool
    fed: Tensor
    size: torch.Size
    layer: PooledConvolution


def pooled_below(
    seen: Observation, known: RecoveredInput, walk: RecoveryOptions, options: PooledMaximaOptions
) -> PooledBelow | None:
    """The convolution whose pooled maxima feed a layer that is known.

    Args:
        seen: What leaked of one image, in float64.
        known: A layer whose input and its derivative are known, and that alone makes the image count.
        walk: How guesses of the image are made.
        options: How many there are.

    Returns:
        None where something else lies below.
    """
    flow = read_dataflow(stateless(seen.network)) if seen.batch_size == 1 else None
    fed = None if flow is None else flow.fed(known.name)
    if flow is None or fed is None or known.input_gradient is None or known.input.basis is not None:
        return None
    if _pooled(flow, _smooth_pictures(seen, flow, walk.spread, replace(options, pictures=1)), fed) is None:
        return None  # one picture tells, for a fraction of the time
    guesses = _smooth_pictures(seen, flow, walk.spread, options)
    way = _pooled(flow, guesses, fed)
    if way is None:
        return None
    pool, convolution, rectified = way
    name = str(convolution.target)
    module, gradient = flow.module(convolution), seen.gradient_of(name, "weight")
    source = convolution.all_input_nodes[0]
    if not isinstance(module, nn.Conv2d) or gradient is None or flow.fed(name) is not source:
        return None
    if source is not flow.image and not flow.is_cut(source):
        return None
    if not isinstance(module.padding, tuple) or module.padding_mode != "zeros" or module.groups > 1:
        return None
    value = known.input.by_image(known.input.value).reshape(guesses[pool][:1].shape)[0]
    noise = known.input.by_image(known.input.noise).reshape(value.shape)
    on = value > walk.pattern.cut * noise if rectified else torch.ones_like(value, dtype=torch.bool)
    derivative = known.input_gradient.reshape(value.shape) * on
    before, size = guesses[source], guesses[convolution].shape[2:]
    side = size[0] // value.shape[-2]
    layer = _layer(module, gradient, before, size, value * on, derivative, on, side)
    return PooledBelow(name, module, source is flow.image, before, size, layer)


def _smooth_pictures(seen: Observation, flow: Dataflow, spread: float, options: PooledMaximaOptions) -> Values:
    """The network's values at smooth noise around grey, which tell the usual mean and spread of its inputs."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = seen.input_shape
    size = (options.pictures, channels, options.coarse, options.coarse)
    noise = torch.randn(size, generator=generator, dtype=seen.dtype).to(seen.device)
    smooth = F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
    low, high = seen.value_range
    with torch.no_grad():
        return flow.forward({flow.image: seen.to_input((GREY + spread * smooth).clamp(low, high))})


def _pooled(flow: Dataflow, values: Values, node: fx.Node) -> tuple[fx.Node, fx.Node, bool] | None:
    """The max pooling's node, the convolution's, and whether a rectifier is among them; told by what they do."""
    pool, rectified = None, False
    while node.op.startswith("call"):
        if isinstance(flow.module(node), nn.Conv2d):
            return None if pool is None else (pool, node, rectified)
        inputs = [n for n in node.all_input_nodes if is_differentiable(values.get(n))]
        if len(inputs) != 1 or len(node.users) > 1:
            return None
        here, below = values[node], values[inputs[0]]
        if torch.equal(here.flatten(), below.flatten()):
            pass
        elif here.shape == below.shape and torch.equal(here, below.clamp_min(0)):
            rectified = True
        elif pool is None and here.ndim == below.ndim == 4 and _is_max_pooling(here, below):
            pool = node
        else:
            return None
        node = inputs[0]
    return None


def _is_max_pooling(here: Tensor, below: Tensor) -> bool:
    side = below.shape[-2] // max(here.shape[-2], 1)
    fits = side > 1 and tuple(s // side for s in below.shape[-2:]) == tuple(here.shape[-2:])
    return fits and torch.equal(here, F.max_pool2d(below, side))


def _layer(
    module: nn.Conv2d,
    gradient: Tensor,
    before: Tensor,
    size: torch.Size,
    value: Tensor,
    derivative: Tensor,
    on: Tensor,
    side: int,
) -> PooledConvolution:
    """The problem, flattened."""
    _, channels, height, width = before.shape
    assert isinstance(module.padding, tuple)
    settings = (module.kernel_size, module.stride, module.padding, module.dilation)
    places = reads((height, width), *((two[0], two[1]) for two in settings)).to(gradient.device)
    channel = torch.arange(channels, device=gradient.device)[:, None, None] * (height * width)
    taken = (places + channel).where(places >= 0, before[0].numel()).flatten(0, 1)
    at = torch.arange(size[0] * size[1], dtype=torch.float64).reshape(1, 1, *size)
    windows = F.unfold(at, side, stride=side)[0].T.long()
    bias = gradient.new_zeros(len(gradient)) if module.bias is None else module.bias.detach()
    flat = (value.flatten(1), derivative.flatten(1), on.flatten(1))
    weight = module.weight.detach().flatten(1)
    entries = windows.to(gradient.device)
    return PooledConvolution(weight, bias, gradient.flatten(1), taken, entries, *flat, (channels, height, width))


def _recovered(below: PooledBelow, found: FoundInput) -> RecoveredInput:
    """The input with its derivative, which the choices tell."""
    layer, module, size = below.layer, below.module, below.size
    shape = below.fed[:1].shape
    derivative = found.value.new_zeros(len(layer.weight), size[0] * size[1])
    positions = layer.windows.expand(len(found.choice), -1, -1).gather(2, found.choice[..., None])[..., 0]
    derivative.scatter_(1, positions, layer.derivative)
    at_output = derivative.reshape(1, len(derivative), *size)
    padding = module.padding
    assert isinstance(padding, tuple)
    pulled = conv2d_input(shape, module.weight.detach(), at_output, module.stride, padding, module.dilation)
    value, std = (t.reshape(shape) for t in (found.value, found.std))
    way = Arrangement.of(module, tuple(shape[1:]))
    return RecoveredInput(below.name, PartialInput.whole(value, std, way), pulled, is_bottleneck=True)
