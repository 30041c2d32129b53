"""The layer-wise walk from the output back to the image (METHOD, section 2), with the solver left open."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from leakage_audit.layerwise.fully_connected import input_from_gradient, last_layer
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.networks.layers import Convolution, Layer, Linear
from leakage_audit.observation import Observation

Solve = Callable[[LayerSystem, int], Tensor]


@dataclass(frozen=True)
class Sweep:
    """Where a walk ended.

    Attributes:
        x: The network's input, `(1, C, H, W)`.
        systems: The convolutions' systems, from the image up, as the walk met them.
    """

    x: Tensor
    systems: tuple[LayerSystem, ...]


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
        ValueError: If the gradients of the fully connected layers give nothing (see `lemma`).
    """
    check_invertible(chain)
    last = chain[-1]
    assert isinstance(last, Linear)  # read_chain promises it
    delta, x = last_layer(last, seen)
    dx = last.weight.detach().T @ delta
    systems: list[LayerSystem] = []
    for i in range(len(chain) - 2, -1, -1):
        layer = chain[i]
        shape = layer.out_shape if isinstance(layer, Convolution) else x.shape
        z = layer.activation.inverse(x.reshape(shape))
        dz = dx.reshape(shape) * layer.activation.derivative(z)
        gradient = seen.gradient_of(layer.name, "weight")
        if isinstance(layer, Convolution):
            system = LayerSystem(layer, dz, z, gradient)
            x = solve(system, i)
            systems.insert(0, system)
            dx = system.dx() if i else dx  # nothing lies below the image
        else:
            if gradient is None:
                raise ValueError(f"the gradient of {layer.name}.weight was not shared: its input cannot be found")
            x = input_from_gradient(gradient, dz)
            dx = layer.weight.detach().T @ dz
    return Sweep(x.reshape(1, *seen.input_shape), tuple(systems))
