"""A chain's equations, compressed by Lemma 3.1: all layers' systems at once, written in the image.

The walk of METHOD, section 2, goes back from the output as long as each layer's system determines its input. Where
it first falls short, at layer D, the pre-activation z_D and the derivative ∂L/∂z_D are known and nothing below is.
What remains is said in the image x, with h_i(x) the input of layer i:

    z_D    = W_D h_D(x) + b_D                          linear in h_D
    g_D    = K_D h_D(x)                                linear in h_D, since ∂L/∂z_D is known
    g_i    = K_i(x) h_i(x),  i < D                     ∂L/∂z_i(x) carried back from the known ∂L/∂h_{D}

z_D counts by σ'(z_D): what leaked is σ(z_D), and where it saturates z_D is rounding.
"""

import copy
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit.factor import Factor
from leakage_audit.joint.equations import ROUNDING, Block, Equations
from leakage_audit.joint.rounding import rounded
from leakage_audit.layers import Convolution, Layer, Linear
from leakage_audit.lemma import input_from_gradient, last_layer
from leakage_audit.network import UnreadableNetwork, read_chain
from leakage_audit.observation import Observation
from leakage_audit.system import LayerSystem

LARGEST_SYSTEM = 10000  # inputs beyond which a layer is not solved on its own: its system would fill the memory
POOL = 0.1  # part of a unit's variance that it takes from its layer, as few moves say little of one unit
TWINS = 4  # walks from gradients with other errors, which tell how errors grow on the way
WORST_NOISE = 1e-4  # a layer is solved on its own only while its input comes out at least this precise


class ChainEquations(Equations):
    """The equations from layer D down to the image; D is the last of `layers`.

    Args:
        seen: What leaked, in float64.
        layers: The convolutions from the image up to D.
        z: Pre-activation of D, `(1, c_out, H', W')`.
        dz: ∂L/∂z_D.
        noise: Relative standard deviation of what is known of D's output.
        gradient_noise: Standard deviation of a gradient's entry beyond its own rounding.
        rounding: Relative standard deviation of a gradient's entry.
    """

    def __init__(
        self,
        seen: Observation,
        layers: tuple[Convolution, ...],
        z: Tensor,
        dz: Tensor,
        noise: float,
        gradient_noise: float,
        rounding: float,
    ) -> None:
        self.layers = layers
        last = layers[-1]
        self._dz = dz
        trust = last.activation.derivative(z).flatten()
        # A rectifier that is off tells nothing of its z, and fewer rows make a cheaper Jacobian.
        self._on = trust.nonzero()[:, 0] if trust.any() else torch.arange(len(trust), device=trust.device)
        self._trust = trust[self._on]
        h = last.activation.forward(z)
        target = self._trust * z.flatten()[self._on]
        blocks = [Block(f"{last.name}: output", target, noise * float(h.square().mean().sqrt()))]
        self._gradients: list[list[str]] = []
        for i, layer in reversed(list(enumerate(layers))):
            names = [f"{layer.name}.{kind}" for kind in ("weight", "bias")]
            kinds = (
                names if i < len(layers) - 1 else names[:1]
            )  # the derivative at D is known, so its bias tells nothing
            present = [name for name in kinds if layer.learned and name in seen.gradients]
            self._gradients.append(present)
            for name in present:
                g = seen.gradients[name].flatten()
                own = rounding * float(g.square().mean().sqrt())
                blocks.append(Block(name, g, max(own, gradient_noise)))
        super().__init__(seen, blocks)

    @property
    def linear(self) -> bool:
        """Whether the Jacobian is the same everywhere: with one layer left, nothing bends."""
        return len(self.layers) == 1

    @property
    def footprint(self) -> int:
        """Windows, inputs and outputs of every layer, forth and back."""
        taps = [
            layer.weight[0, 0].numel() * layer.in_shape[0] * math.prod(layer.out_shape[1:]) for layer in self.layers
        ]
        return 4 * (sum(taps) + sum(math.prod(layer.in_shape) + math.prod(layer.out_shape) for layer in self.layers))

    def values(self, image: Tensor) -> list[Tensor]:
        """Features and gradients of `image (1, C, H, W)`, carried forth and back."""
        inputs, outputs = self._forward(image)
        found = [self._trust * outputs[-1].flatten()[self._on]]
        dz = self._dz
        for (i, layer), names in zip(reversed(list(enumerate(self.layers))), self._gradients, strict=True):
            for name in names:
                if name.endswith("weight"):
                    found.append(weight_gradient(layer, inputs[i], dz).flatten())
                else:
                    found.append(dz.sum((0, 2, 3)))
            if i:
                dz = carry_back(layer, dz) * self.layers[i - 1].activation.derivative(outputs[i - 1])
        return found

    def _forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and outputs (before the activation) of every layer."""
        inputs, outputs = [self.seen.to_input(image)], []
        for layer in self.layers:
            outputs.append(layer(inputs[-1]))
            inputs.append(layer.activation.forward(outputs[-1]))
        return inputs, outputs

    def rounded(self, image: Tensor, moves: Tensor) -> "ChainEquations":
        """Each unit's kink rounded off as far as its input varies; the last layer's pattern is known."""
        if all(layer.activation.smooth for layer in self.layers[:-1]):
            return self
        _, centre = self._forward(image.reshape(self.shape))
        moved = [self._forward((image + move).reshape(self.shape))[1] for move in moves]
        layers = []
        for layer, z, around in zip(self.layers[:-1], centre, zip(*moved, strict=True), strict=False):
            variance = (torch.stack(around) - z).square().mean(0)
            spread = ((1 - POOL) * variance + POOL * variance.mean()).sqrt()
            layers.append(replace(layer, activation=rounded(layer.activation, spread)))
        twin = copy.copy(self)
        twin.layers = (*layers, self.layers[-1])
        return twin


def weight_gradient(layer: Convolution, x: Tensor, dz: Tensor) -> Tensor:
    """∂L/∂w of a convolution from its input `(1, c_in, H, W)` and ∂L/∂z, shaped like the filters.

    In operations that `torch.func` differentiates and maps without a detour, unlike `torch.nn.grad.conv2d_weight`.
    """
    size = tuple(layer.weight.shape[2:])
    windows = F.unfold(x, size, layer.dilation, layer.padding, layer.stride)[0]
    windows = windows.reshape(layer.groups, -1, windows.shape[-1])
    return (dz.reshape(layer.groups, -1, windows.shape[-1]) @ windows.mT).reshape(layer.weight.shape)


def carry_back(layer: Convolution, dz: Tensor) -> Tensor:
    """∂L/∂x of a convolution from ∂L/∂z: `Wᵀ ∂L/∂z`."""
    spare = []
    for i in (0, 1):
        covered = (
            (layer.out_shape[1 + i] - 1) * layer.stride[i] + layer.dilation[i] * (layer.weight.shape[2 + i] - 1) + 1
        )
        spare.append(layer.in_shape[1 + i] + 2 * layer.padding[i] - covered)
    geometry = layer.stride, layer.padding, tuple(spare), layer.groups, layer.dilation
    return F.conv_transpose2d(dz, layer.weight, None, *geometry)


def open_chain(seen: Observation, rounding: float) -> ChainEquations:
    """Walk back while each layer's system determines its input, then write what is left in the image.

    Args:
        seen: What leaked from one image, in float64.
        rounding: Relative rounding of the gradients' own type.

    Raises:
        UnreadableNetwork: If the network is no chain of convolutions under fully connected layers, or an activation
            on the way has no inverse.
        ValueError: If the fully connected layers' gradients give nothing.
    """
    chain = tuple(_detached(layer) for layer in read_chain(seen.network, seen.input_shape))
    last = chain[-1]
    assert isinstance(last, Linear)  # read_chain promises it
    rounding = ROUNDING * rounding
    delta, x = last_layer(last, seen)
    observed = seen.gradients[f"{last.name}.weight" if last.name else "weight"]
    # The last gradient is δ xᵀ: what of it has more than rank one is noise.
    defect = float((observed - torch.outer(delta, x)).square().mean().sqrt())
    floor = rounding * float(observed.square().mean().sqrt())
    gradient_noise = defect if defect > 10 * floor else 0.0
    twins = [_as_likely(seen, rounding, gradient_noise, seed) for seed in range(TWINS)]
    ends = [last_layer(last, one) for one in (seen, *twins)]
    inputs, slopes = [x for _, x in ends], [last.weight.T @ delta for delta, _ in ends]
    for i in range(len(chain) - 2, -1, -1):
        layer = chain[i]
        shape = layer.out_shape if isinstance(layer, Convolution) else inputs[0].shape
        noise = max(rounding, _spread(inputs))
        if layer.activation.invert is None:  # a rectifier's output is not negative, whatever its error
            inputs = [inputs[0], *(layer.activation.forward(x) for x in inputs[1:])]
        z = [_preimage(layer, x.reshape(shape)) for x in inputs]
        dz = [dx.reshape(shape) * layer.activation.derivative(at) for dx, at in zip(slopes, z, strict=True)]
        gradients = [one.gradients.get(f"{layer.name}.weight") for one in (seen, *twins)]
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


def _as_likely(seen: Observation, rounding: float, noise: float, seed: int) -> Observation:
    """The gradients as they might as well have been, given their errors."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {}
    for name, g in seen.gradients.items():
        error = torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device)
        gradients[name] = g + max(rounding * float(g.square().mean().sqrt()), noise) * error
    return replace(seen, gradients=gradients)


def _spread(likely: list[Tensor]) -> float:
    """Root mean square by which the others differ from the first, as a share of its size."""
    size = float(likely[0].square().mean().sqrt())
    apart = torch.stack(likely[1:]) - likely[0]
    return float(apart.square().mean().sqrt()) / size if size > 0 else 0.0


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
