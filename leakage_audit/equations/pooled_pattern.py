"""The rectifier's pattern behind a global average pooling, from the gradient of a convolution below it.

The pooling hands every position p of channel k the same derivative d_k, so that the derivative at the output of a
convolution below the last rectifier, with nothing but additions and fixed factors f_k in between, is `f_k d_k S_kp`
with an unknown pattern S of zeros and ones. Its gradient says, tap by tap of the kernel (`convolution_range`),

    G_t / (f d) = S R_t A,        A (P × c_in) its input, R_t the positions that tap t reads,

bilinear in S and A (`binary_factor`). How many units of a channel are on is known: it is ∂L/∂(the shift of a
normalisation, or a bias) over `f d`.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.binary_factor import BinaryFactor, PooledPatternOptions
from leakage_audit.equations.convolution_range import reads
from leakage_audit.equations.known_inputs import Known, RecoveryOptions
from leakage_audit.equations.normalised_pattern import Normalised, pattern_below_statistics
from leakage_audit.equations.rectifier_pattern import Patterns
from leakage_audit.networks.dataflow import Dataflow, Values, is_differentiable
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget, OutOfMemory


@dataclass(frozen=True)
class _Reader:
    """A convolution below the rectifier: its name, `f_k d_k (c_out,)`, and how many units of each channel are on.

    Where a normalisation in training mode lies in between, the mean of what it puts out over these units, times their
    share of all, and its ε, too.
    """

    name: str
    slope: Tensor
    count: Tensor
    share: Tensor | None = None
    eps: float = 0.0


def pooled_pattern(
    seen: Observation,
    flow: Dataflow,
    start: Known,
    walk: RecoveryOptions | None = None,
    options: PooledPatternOptions | None = None,
    budget: Budget | None = None,
) -> dict[str, Tensor]:
    """Which units of the last rectifier were on, by the name of its operation; nothing where it is not found.

    Args:
        seen: What leaked of one image, in float64.
        flow: Its network's operations (`stateless`).
        start: What is known at the last layer.
        walk: How guesses of the image are made, and what is the same for all.
        options: When the pattern counts as found.
        budget: Limits of time and memory.

    Returns:
        `(1, C, H, W)` of zeros and ones.

    Raises:
        OutOfTime: If there is not as much time left as the search and what follows take.
    """
    walk, options, budget = walk or RecoveryOptions(), options or PooledPatternOptions(), budget or Budget()
    if seen.batch_size > 1 or start.of_input:
        return {}
    generator = torch.Generator().manual_seed(0)
    guesses: list[Values] = []
    for _ in range(2):
        noise = torch.randn(1, *seen.input_shape, generator=generator, dtype=seen.dtype).to(seen.device)
        with torch.no_grad():
            guesses.append(flow.forward({flow.image: seen.to_input(GREY + walk.spread * noise)}))
    found = _rectifier(flow, guesses, start, walk)
    if found is None:
        return {}
    node, derivative = found
    d = derivative[0].mean((1, 2))
    if float((derivative[0] - d[:, None, None]).abs().max()) > walk.same * float(d.abs().max()) or not d.all():
        return {}
    for reader in _readers(seen, flow, guesses, node, d, options):
        try:
            pattern = _pattern(seen, flow, guesses[0], reader, options, budget)
        except OutOfMemory:
            return {}
        if pattern is not None:
            return {node.name: pattern.reshape(derivative.shape)}
    return {}


def _rectifier(
    flow: Dataflow, guesses: list[Values], start: Known, options: RecoveryOptions
) -> tuple[fx.Node, Tensor] | None:
    """The first rectifier below the last layer, with nothing in between that depends on the image, and ∂L/∂output."""
    node, derivative, patterns = flow.call(start.layer), start.derivative, Patterns(flow, guesses, options.pattern)
    while node is not None and node.op.startswith("call"):
        inputs = [n for n in node.all_input_nodes if is_differentiable(guesses[0].get(n))]
        if len(inputs) != 1:
            return None
        if derivative.ndim == 4 and patterns.is_rectifier(node):
            return node, derivative
        pulled, other = (flow.pull_back(node, guess, derivative)[inputs[0]] for guess in guesses)
        if len(_users(flow, guesses[0], inputs[0])) > 1 or not torch.allclose(pulled, other, rtol=options.same, atol=0):
            return None
        node, derivative = inputs[0], pulled
    return None


def _users(flow: Dataflow, values: Values, node: fx.Node) -> list[fx.Node]:
    """The operations by way of which a value counts; not those that only keep track of it."""
    users = [n for n in node.users if is_differentiable(values.get(n))]
    return [n for n in users if n is flow.end or flow.end in flow.above(n)]


def _once(flow: Dataflow, values: Values, node: fx.Node) -> bool:
    return len(_users(flow, values, node)) == 1


def _readers(
    seen: Observation, flow: Dataflow, guesses: list[Values], node: fx.Node, d: Tensor, options: PooledPatternOptions
) -> list[_Reader]:
    """The convolutions whose outputs reach a rectifier by additions and fixed factors only."""
    left = [(n, torch.ones_like(d)) for n in node.all_input_nodes if n.op != "get_attr"]
    counts, found, shape = [], list[_Reader](), guesses[0][node].shape
    while left:
        here, factor = left.pop()
        module = flow.module(here)
        shift = None if module is None else seen.gradient_of(str(here.target), "bias")
        if shift is not None and isinstance(module, (nn.Conv2d, _BatchNorm)):
            counts.append(shift / (factor * d))
        if isinstance(module, nn.Conv2d):
            found.append(_Reader(str(here.target), factor * d, d))
        elif isinstance(module, _BatchNorm) and module.training:
            scale, call = seen.gradient_of(str(here.target), "weight"), here.all_input_nodes[0]
            if scale is not None and isinstance(flow.module(call), nn.Conv2d) and _once(flow, guesses[0], call):
                share = scale / (factor * d * math.prod(shape[2:]))
                found.append(_Reader(str(call.target), factor * d * module.weight.detach(), d, share, module.eps))
        elif here.op.startswith("call"):
            left += [
                (n, factor * f) for n, f in _fixed_factors(flow, guesses, here).items() if _once(flow, guesses[0], n)
            ]
    for count in counts:
        off = float((count - count.round()).abs().max())
        if off <= options.whole and bool((count.round() >= 0).all()):
            return [replace(reader, count=count.round()) for reader in found]
    return []


def _fixed_factors(flow: Dataflow, guesses: list[Values], node: fx.Node) -> dict[fx.Node, Tensor]:
    """Of an operation's inputs those whose derivative is that of the output times a factor a channel, `(C,)` each."""
    generator = torch.Generator().manual_seed(1)
    output = guesses[0][node]
    if not isinstance(output, Tensor) or output.ndim != 4:
        return {}
    v = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
    one, two = (flow.pull_back(node, guess, v) for guess in guesses)
    found = {}
    for other, pulled in one.items():
        if pulled.shape != v.shape or not torch.equal(pulled, two[other]):
            continue
        factor = (pulled / v)[0].flatten(1)
        if torch.allclose(factor, factor[:, :1].expand_as(factor)) and factor.all():
            found[other] = factor[:, 0]
    return found


def _pattern(
    seen: Observation, flow: Dataflow, guess: Values, reader: _Reader, options: PooledPatternOptions, budget: Budget
) -> Tensor | None:
    """S `(C, P)`, if this convolution's gradient tells it."""
    call, fed = flow.call(reader.name), flow.fed(reader.name)
    module = None if call is None else flow.module(call)
    gradient = seen.gradient_of(reader.name, "weight")
    if not isinstance(module, nn.Conv2d) or fed is None or gradient is None or not isinstance(module.padding, tuple):
        return None
    (height, width), kernel = guess[fed].shape[2:], gradient.shape[2:]
    if module.groups > 1 or max(module.stride) > 1 or max(kernel) == 1 or module.padding_mode != "zeros":
        return None
    padding, dilation = ((two[0], two[1]) for two in (module.padding, module.dilation))
    read = reads((height, width), (kernel[0], kernel[1]), (1, 1), padding, dilation).to(gradient.device)
    positions = read.shape[1]
    live = (reader.count > 0) if reader.share is None else (reader.count > 0) & (reader.count < positions)
    count = reader.count[live]
    taps = (gradient[live] / reader.slope[live, None, None, None]).flatten(2).permute(2, 0, 1)
    problem = BinaryFactor(taps, read, count, height * width, options)
    if problem.positions != read.shape[1] or bool((count > read.shape[1]).any()):
        return None
    if reader.share is None:
        found = problem.solve(budget)
    else:
        normalised = Normalised(module, problem, live, count, reader.share[live], reader.eps)
        found = pattern_below_statistics(normalised, (height, width), options.rounds, options.agrees, budget)
    if found is None:
        return None
    pattern = (reader.count == positions).to(found)[:, None].expand(-1, positions).clone()  # all on, or none
    pattern[live] = found
    return pattern
