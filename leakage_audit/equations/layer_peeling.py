"""The walk back from a chain's output: which layers are solved on their own, and how errors grow on the way."""

from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.equations.base import rms
from leakage_audit.equations.chain import ChainEquations, carry_back
from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.fully_connected import input_from_gradient, last_layer
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.networks.layers import Convolution, Layer, Linear
from leakage_audit.observation import Observation

LARGEST_SYSTEM = 10000  # inputs beyond which a layer is not solved on its own: its system would fill the memory
REPLICAS = 4  # walks from gradients with other errors, which tell how errors grow on the way
WORST_NOISE = 1e-4  # a layer is solved on its own only while its input comes out at least this precise


def peel_layers(seen: Observation, rounding: float) -> ChainEquations:
    """Walk back while each layer's system determines its input, then write what is left in the image.

    Args:
        seen: What leaked from one image, in float64.
        rounding: Relative error of a gradient's entry, as `base.relative_error_of` has it.

    Raises:
        UnreadableNetwork: If the network is no chain of convolutions under fully connected layers, or an activation
            on the way has no inverse.
        ValueError: If the fully connected layers' gradients give nothing.
    """
    chain = tuple(_detached(layer) for layer in read_chain(seen.network, seen.input_shape))
    last = chain[-1]
    assert isinstance(last, Linear)  # read_chain promises it
    delta, x = last_layer(last, seen)
    observed = seen.gradients[f"{last.name}.weight" if last.name else "weight"]
    # The last gradient is δ xᵀ: what of it has more than rank one is noise.
    defect = rms(observed - torch.outer(delta, x))
    floor = rounding * rms(observed)
    gradient_noise = defect if defect > 10 * floor else 0.0
    replicas = [_resample(seen, rounding, gradient_noise, seed) for seed in range(REPLICAS)]
    ends = [last_layer(last, one) for one in (seen, *replicas)]
    inputs, slopes = [x for _, x in ends], [last.weight.T @ delta for delta, _ in ends]
    for i in range(len(chain) - 2, -1, -1):
        layer = chain[i]
        shape = layer.out_shape if isinstance(layer, Convolution) else inputs[0].shape
        noise = max(rounding, _spread(inputs))
        if layer.activation.invert is None:  # a rectifier's output is not negative, whatever its error
            inputs = [inputs[0], *(layer.activation.forward(x) for x in inputs[1:])]
        z = [_preimage(layer, x.reshape(shape)) for x in inputs]
        dz = [dx.reshape(shape) * layer.activation.derivative(at) for dx, at in zip(slopes, z, strict=True)]
        gradients = [one.gradients.get(f"{layer.name}.weight") for one in (seen, *replicas)]
        if isinstance(layer, Linear):
            inputs = []
            for gradient, slope in zip(gradients, dz, strict=True):
                if gradient is None:
                    raise ValueError(f"the gradient of {layer.name}.weight was not shared: its input cannot be found")
                inputs.append(input_from_gradient(gradient, slope))
            slopes = [layer.weight.T @ slope for slope in dz]
            continue
        systems = [LayerSystem(layer, *one) for one in zip(dz, z, gradients, strict=True)]
        system = systems[0]
        if i and layer.activation.invert is not None and system.equations >= system.n <= LARGEST_SYSTEM:
            factor = Factor(system)
            if factor.rank == system.n:
                x = factor.pseudo_inverse(system.v)
                found = [x, *(x + factor.pseudo_inverse(other.v - other.apply(x)) for other in systems[1:])]
                if _spread(found) < WORST_NOISE:
                    inputs, slopes = found, [carry_back(layer, slope[None])[0] for slope in dz]
                    continue
        below = chain[: i + 1]
        if not all(isinstance(layer, Convolution) for layer in below):
            raise UnreadableNetwork("a fully connected layer lies below a convolution")
        return ChainEquations(seen, below, z[0][None], dz[0][None], noise, gradient_noise, rounding)  # type: ignore[arg-type]
    raise UnreadableNetwork("the network has no convolution: Lemma 3.1 alone gives its input")


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


def _preimage(layer: Layer, h: Tensor) -> Tensor:
    """A z with σ(z) = h; where σ is flat the derivative there is zero, so that the choice does not matter.

    Rectifiers leave their own values as they are and are zero where the derivative is, so h itself serves.
    """
    if layer.activation.invert is not None:
        return layer.activation.inverse(h)
    if torch.allclose(layer.activation.forward(h), h, rtol=1e-6, atol=0.0):
        return h
    raise UnreadableNetwork(f"{layer.name}: {layer.activation.name} cannot be inverted: {layer.activation.refusal}")


def _detached(layer: Layer) -> Layer:
    bias = None if layer.bias is None else layer.bias.detach()
    return replace(layer, weight=layer.weight.detach(), bias=bias)
