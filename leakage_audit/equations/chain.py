"""A chain's equations, compressed by Lemma 3.1: all layers' systems at once, written in the image.

The recursion (docs/method.md, section 2.4) goes back from the output as long as each layer's system determines its
input. Where it first falls short, at layer D, the pre-activation z_D and the derivative ∂L/∂z_D are known and nothing
below is. What remains is said in the image x (section 5.2, (M31)), with h_i(x) the input of layer i:

    z_D    = W_D h_D(x) + b_D                          linear in h_D
    g_D    = K_D h_D(x)                                linear in h_D, since ∂L/∂z_D is known
    g_i    = K_i(x) h_i(x),  i < D                     ∂L/∂z_i(x) carried back from the known ∂L/∂h_{D}

z_D counts by σ'(z_D): what leaked is σ(z_D), and where it saturates z_D is rounding.
"""

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.equations.base import Block, Equations, rms
from leakage_audit.equations.smoothed_activation import gaussian_smoothed
from leakage_audit.equations.switches import Switches, slope_below, switched
from leakage_audit.equations.units import units_of
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.observation import Observation


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
        pool: Part of a unit's variance that it takes from its layer, as few moves say little of one unit.

    Attributes:
        solution: The network's input `(n,)` and its standard deviation, where the first layer's system determines it.
    """

    def __init__(
        self,
        seen: Observation,
        layers: tuple[SpatialLayer, ...],
        z: Tensor,
        dz: Tensor,
        noise: float,
        gradient_noise: float,
        rounding: float,
        pool: float = 0.1,
    ) -> None:
        self.layers, self._pool = layers, pool
        self.solution: tuple[Tensor, float] | None = None
        last = layers[-1]
        self._dz = dz
        trust = last.activation.derivative(z).flatten()
        # A rectifier that is off tells nothing of its z, and fewer rows make a cheaper Jacobian.
        self._on = trust.nonzero()[:, 0] if trust.any() else torch.arange(len(trust), device=trust.device)
        self._trust = trust[self._on]
        h = last.activation.forward(z)
        target = self._trust * z.flatten()[self._on]
        blocks = [Block(f"{last.name}: output", target, noise * rms(h))]
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
                own = rounding * rms(g)
                blocks.append(Block(name, g, max(own, gradient_noise), units_of(seen.gradients[name])))
        super().__init__(seen, blocks)

    @property
    def linear(self) -> bool:
        """Whether the Jacobian is the same everywhere: with one layer left, nothing bends."""
        return len(self.layers) == 1

    @property
    def memory_estimate(self) -> int:
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
                    found.append(layer.weight_gradient(inputs[i], dz).flatten())
                else:
                    found.append(dz.sum((0, 2, 3)))
            if i:
                dz = layer.adjoint(dz) * self.layers[i - 1].activation.derivative(outputs[i - 1])
        return found

    def _forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and outputs (before the activation) of every layer."""
        inputs, outputs = [self.seen.to_input(image)], []
        for layer in self.layers:
            outputs.append(layer(inputs[-1]))
            inputs.append(layer.activation.forward(outputs[-1]))
        return inputs, outputs

    def smoothed(self, image: Tensor, perturbations: Tensor) -> "ChainEquations":
        """Each unit's kink rounded off as far as its input varies; the last layer's pattern is known."""
        if all(layer.activation.smooth for layer in self.layers[:-1]):
            return self
        _, centre = self._forward(image.reshape(self.shape))
        moved = [self._forward((image + perturbation).reshape(self.shape))[1] for perturbation in perturbations]
        layers = []
        for layer, z, around in zip(self.layers[:-1], centre, zip(*moved, strict=True), strict=False):
            variance = (torch.stack(around) - z).square().mean(0)
            spread = ((1 - self._pool) * variance + self._pool * variance.mean()).sqrt()
            layers.append(replace(layer, activation=gaussian_smoothed(layer.activation, spread)))
        twin = copy.copy(self)
        twin.__dict__.pop("kinked", None)  # these are other equations
        twin.layers = (*layers, self.layers[-1])
        return twin

    def switches(self, image: Tensor) -> Switches | None:
        """See `Equations`; the last layer's pattern is known."""
        kinks = [i for i, layer in enumerate(self.layers[:-1]) if not layer.activation.smooth]
        if not kinks or any(slope_below(self.layers[i].activation) is None for i in kinks):
            return None
        _, outputs = self._forward(image.reshape(self.shape))
        margins = torch.cat([outputs[i].flatten() for i in kinks])
        return Switches(margins, torch.full((len(margins),), -1, device=margins.device))

    def residual_at(self, image: Tensor, on: Tensor) -> Tensor:
        """See `Equations`."""
        layers, place = list[SpatialLayer](), 0
        for layer in self.layers[:-1]:
            slope, count = slope_below(layer.activation), math.prod(layer.out_shape)
            if slope is not None:
                given, place = on[place : place + count].reshape(1, *layer.out_shape), place + count
                layer = replace(layer, activation=switched(layer.activation, slope, given))
            layers.append(layer)
        twin = copy.copy(self)
        twin.layers = (*layers, self.layers[-1])
        return twin.residual(image)
