"""The walk back from a chain's output: which layers are solved on their own, and how errors grow on the way."""

from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.equations.chain import ChainEquations
from leakage_audit.layerwise.factorization import TOLERANCE, Factor
from leakage_audit.layerwise.fully_connected import delta_and_features
from leakage_audit.layerwise.gram_factors import FactorOptions
from leakage_audit.layerwise.recursion import Level, recurse
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.networks.layer_types import Layer, SpatialLayer
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget, OutOfMemory, OverBudget


@dataclass(frozen=True)
class PeelingOptions(Checked):
    """When a layer is solved by itself.

    Attributes:
        largest_system: Inputs beyond which it is not: a dense Gram matrix of as many takes 0.8 GB.
        replicas: Walks from gradients with other errors, which tell how errors grow on the way; the root mean square of
            four is known to about a third, and enters as a noise level only.
        pool: Part of a unit's variance that it takes from its layer (see `ChainEquations`).
        worst_noise: Relative error of the input up to which it is; beyond, the layer's equations say more in the image.
        tolerance: Singular values of a layer's system below this share of the largest count as zero.
        noisy: The last gradient carries noise where what it has beyond rank one is so many roundings or more.
        own_value: Relative error up to which a rectifier's output is one of its own values, as rounding leaves it.
        factor: How the layers' systems are factored.
    """

    largest_system: int = 10000
    replicas: int = 4
    worst_noise: float = 1e-4
    pool: float = 0.1
    tolerance: float = TOLERANCE
    noisy: float = 10.0
    own_value: float = 1e-6
    factor: FactorOptions = field(default_factory=FactorOptions)

    def __post_init__(self) -> None:
        self.check(("replicas", "worst_noise", "noisy", "own_value"), ("largest_system", "pool"), ("tolerance",))


def peel_layers(
    seen: Observation, rounding: float, options: PeelingOptions | None = None, budget: Budget | None = None
) -> ChainEquations:
    """Walk back while each layer's system determines its input, then write what is left in the image.

    Args:
        seen: What leaked from one image, in float64.
        rounding: Relative error of a gradient's entry, as `base.relative_error_of` has it.
        options: When a layer is solved by itself.
        budget: Limits of time and memory; none by default. A layer whose system does not fit in memory is not solved
            by itself.

    Raises:
        UnreadableNetwork: If the network is no chain of convolutions under fully connected layers, or an activation
            on the way has no inverse.
        ValueError: If the fully connected layers' gradients give nothing.
    """
    options = options or PeelingOptions()
    chain = tuple(_detached(layer) for layer in read_chain(seen.network, seen.input_shape))
    last = chain[-1]
    delta, x = delta_and_features(last, seen)
    observed = seen.gradient_of(last.name, "weight")
    assert observed is not None  # it gave δ and x
    # The last gradient is δ xᵀ: what of it has more than rank one is noise.
    defect = rms(observed - last.weight_gradient(x[None], delta[None]))
    floor = rounding * rms(observed)
    gradient_noise = defect if defect > options.noisy * floor else 0.0
    replicas = [_resample(seen, rounding, gradient_noise, seed) for seed in range(options.replicas)]
    ends = [(delta, x), *(delta_and_features(last, one) for one in replicas)]
    left: list[ChainEquations] = []

    def solved(level: Level) -> list[Tensor] | None:
        """The layer's inputs by its own system, where that determines them."""
        system = level.systems[0]
        invertible = chain[level.place].activation.invert is not None
        if not invertible or not system.equations >= system.n <= options.largest_system:
            return None
        factor: Factor | None = None
        # The first layer's equations are solved in the image where its system is not, within whatever limits.
        with suppress(OutOfMemory if level.place else OverBudget):
            factor = Factor(system, options.tolerance, options.factor, budget)
        if factor is None or factor.rank < system.n:
            return None
        x = factor.pseudo_inverse(system.v)
        found = [x, *(x + factor.pseudo_inverse(other.v - other.apply(x)) for other in level.systems[1:])]
        return found if _spread(found) < options.worst_noise else None

    def visit(level: Level) -> list[Tensor] | None:
        system = level.systems[0]
        found = solved(level)
        if found is not None and level.place:
            return found
        below = chain[: level.place + 1]
        spatial = tuple(one for one in below if isinstance(one, SpatialLayer))
        if len(spatial) < len(below):
            raise UnreadableNetwork("a fully connected layer lies below a convolution")
        noise = max(rounding, _spread(level.outputs))
        left.append(
            ChainEquations(seen, spatial, system.z[None], system.dz, noise, gradient_noise, rounding, options.pool)
        )
        if found is not None:
            left[0].solution = found[0], rms(torch.stack(found[1:]) - found[0])
        return None

    def preimage(layer: Layer, h: Tensor, replica: int) -> Tensor:
        return _preimage(layer, h, replica, options.own_value)

    recurse(chain, [seen, *replicas], ends, visit, preimage)
    if not left:
        raise UnreadableNetwork("the network has no convolution: Lemma 3.1 alone gives its input")
    return left[0]


def _resample(seen: Observation, rounding: float, noise: float, seed: int) -> Observation:
    """The gradients as they might as well have been, given their errors."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {}
    for name, g in seen.gradients.items():
        error = torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device)
        gradients[name] = g + max(rounding * rms(g), noise) * error
    return replace(seen, gradients=gradients)


def _spread(likely: list[Tensor]) -> float:
    """Root mean square by which the others differ from the first, as a share of its size."""
    size = rms(likely[0])
    return rms(torch.stack(likely[1:]) - likely[0]) / size if size > 0 else 0.0


def _preimage(layer: Layer, h: Tensor, replica: int, tolerance: float) -> Tensor:
    """A z with σ(z) = h; where σ is flat the derivative there is zero, so that the choice does not matter.

    Rectifiers leave their own values as they are and are zero where the derivative is, so h itself serves.

    Raises:
        UnreadableNetwork: If the activation cannot be inverted and h is none of its values.
    """
    if layer.activation.invert is not None:
        return layer.activation.inverse(h)
    if replica:
        return layer.activation.forward(h)  # a rectifier's output is not negative, whatever its error
    if torch.allclose(layer.activation.forward(h), h, rtol=tolerance, atol=0.0):
        return h
    raise UnreadableNetwork(f"{layer.name}: {layer.activation.name} cannot be inverted: {layer.activation.refusal}")


def _detached(layer: Layer) -> Layer:
    bias = None if layer.bias is None else layer.bias.detach()
    return replace(layer, weight=layer.weight.detach(), bias=bias)
