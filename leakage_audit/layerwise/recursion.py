"""The layer-wise walk from the output back to the image (docs/method.md, section 2.4), with the solver left open.

`recurse` is the only one: `sweep` walks with the gradients as observed, for R-GAP, Hybrid and c(M); `layer_peeling`
walks with several likely gradients at once, and no further than each layer determines its input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from leakage_audit.layerwise.fully_connected import delta_and_features, input_from_gradient
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.networks.layer_types import Layer, SpatialLayer
from leakage_audit.observation import Observation

Solve = Callable[[LayerSystem, int], Tensor]
Preimage = Callable[[Layer, Tensor, int], Tensor]


@dataclass(frozen=True)
class Level:
    """A spatial layer as the recursion meets it; lists have an entry an observation.

    Attributes:
        place: Of the layer in the chain.
        outputs: σ(z), as it was found to be the input of the layer above.
        systems: `u x = v`.
    """

    place: int
    outputs: list[Tensor]
    systems: list[LayerSystem]


Visit = Callable[[Level], list[Tensor] | None]


@dataclass(frozen=True)
class Sweep:
    """Where a walk ended.

    Attributes:
        x: The network's input, `(1, C, H, W)`.
        systems: The convolutions' systems, from the image up, as the walk met them.
        delta: ∂L/∂z of the last layer, `(classes,)`.
    """

    x: Tensor
    systems: tuple[LayerSystem, ...]
    delta: Tensor


def check_invertible(chain: tuple[Layer, ...]) -> None:
    """Refuse a chain that the walk cannot go back through.

    Raises:
        UnreadableNetwork: If an activation below the last layer has no inverse; the message says which and why.
    """
    for layer in chain[:-1]:
        if layer.activation.invert is None:
            raise UnreadableNetwork(
                f"{layer.name}: the sweep cannot go back through {layer.activation.name}: {layer.activation.refusal}"
            )


def sweep(chain: tuple[Layer, ...], seen: Observation, solve: Solve) -> Sweep:
    """Walk back from the output: at each convolution set up `u x = v` and let `solve` find its input.

    A gradient that averages several images is read as if it were one image's.

    Args:
        chain: The network's layers, from the image up.
        seen: What leaked, in float64 where exactness matters.
        solve: Called as `solve(system, i)` for the convolution at place i of the chain; returns its input `(n,)`.

    Raises:
        UnreadableNetwork: As `check_invertible`.
        ValueError: If the gradients of the fully connected layers give nothing (see `fully_connected`).
    """
    check_invertible(chain)
    systems: list[LayerSystem] = []

    def visit(level: Level) -> list[Tensor]:
        (system,) = level.systems
        x = solve(system, level.place)
        systems.insert(0, system)
        return [x]

    last = delta_and_features(chain[-1], seen)
    found = recurse(chain, [seen], [last], visit, lambda layer, h, _: layer.activation.inverse(h))
    assert found is not None  # `visit` never stops
    return Sweep(found[0].reshape(1, *seen.input_shape), tuple(systems), last[0])


def recurse(
    chain: tuple[Layer, ...],
    observations: Sequence[Observation],
    ends: Sequence[tuple[Tensor, Tensor]],
    visit: Visit,
    preimage: Preimage,
) -> list[Tensor] | None:
    """Walk back from the last layer for several observations of one network side by side.

    Fully connected layers are solved by Lemma 3.1 on the way.

    Args:
        chain: The network's layers, from the image up.
        observations: Gradients.
        ends: Of each, δ and the input of the last layer.
        visit: Finds the inputs of a spatial layer, `(n,)` each; or None, to stop there.
        preimage: `preimage(layer, h, j)` is a z with σ(z) = h for observation j.

    Returns:
        The chain's input of each observation, flattened; None if `visit` stopped.

    Raises:
        ValueError: If the gradient of a fully connected layer's weights was not shared, or is zero.
    """
    inputs = [x for _, x in ends]
    slopes = [_back(chain[-1], delta) for delta, _ in ends]
    for i in range(len(chain) - 2, -1, -1):
        layer = chain[i]
        z = [preimage(layer, x.reshape(layer.out_shape), j) for j, x in enumerate(inputs)]
        dz = [dx.reshape(at.shape) * layer.activation.derivative(at) for dx, at in zip(slopes, z, strict=True)]
        gradients = [one.gradient_of(layer.name, "weight") for one in observations]
        if isinstance(layer, SpatialLayer):
            systems = [LayerSystem(layer, *one) for one in zip(dz, z, gradients, strict=True)]
            found = visit(Level(i, inputs, systems))
            if found is None:
                return None
            inputs = found
        else:
            inputs = []
            for gradient, delta in zip(gradients, dz, strict=True):
                if gradient is None:
                    raise ValueError(f"the gradient of {layer.name}.weight was not shared: its input cannot be found")
                inputs.append(input_from_gradient(gradient, delta))
        if i:  # nothing lies below the image
            slopes = [_back(layer, delta) for delta in dz]
    return inputs


def _back(layer: Layer, dz: Tensor) -> Tensor:
    """∂L/∂x of one image."""
    return layer.adjoint(dz[None])[0].detach()
