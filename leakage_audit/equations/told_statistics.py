"""What batch statistics were, told by the ε beside them.

Normalisation in training mode would forget the size of its input, were it not for ε: with `z` the output of a layer
with weight `w` that is normalised with variance v, (M80) gives, channel by channel,

    ⟨w, ∂L/∂w⟩ = Σ z ∂L/∂z = γ ∂L/∂γ · ε / (v + ε),

three numbers that were shared, and so v: to a few thousandths from float32 gradients, as ε/v of 1e-3 to 1e-5 is left
where their digits cancel. (A bias of the layer does not matter: `Σ ∂L/∂z = 0`.)
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.observation import Observation
from leakage_audit.priors import GREY

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def told_variances(seen: Observation, rounding: float) -> dict[str, Tensor]:
    """Variances by which the step normalised, channel by channel, of the normalisations right behind a layer.

    Args:
        seen: What leaked, in float64.
        rounding: Relative error of a gradient's entry.

    Returns:
        By the normalisations' names. A channel that is told to no more than a third, as one that is nowhere on above,
        is NaN, and a normalisation without others is left out.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, Tensor] = {}
    names = {module: name for name, module in seen.network.named_modules()}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[id(output)] = names[module], output  # held, so that no other has its place

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer, output = outputs.get(id(inputs[0]), ("", None))
        variance = None if output is None else _variance(seen, layer, names[module], module, rounding)
        if variance is not None:
            found[names[module]] = variance

    handles = [m.register_forward_hook(keep) for m in names if isinstance(m, KINDS)]
    handles += [m.register_forward_pre_hook(read) for m in names if isinstance(m, _BatchNorm) and m.training]
    state = {name: buffer.clone() for name, buffer in seen.network.named_buffers()}
    grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
    try:
        with torch.no_grad():
            seen.network(seen.to_input(grey))
    finally:
        for handle in handles:
            handle.remove()
        for name, buffer in seen.network.named_buffers():
            buffer.copy_(state[name])
    return found


class Centred(nn.Module):
    """Batch normalisation by the images' own means and given variances.

    Args:
        norm: Whose scale and shift these are.
        variance: `(C,)`, NaN where a channel is normalised by its own.
    """

    def __init__(self, norm: _BatchNorm, variance: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.variance = norm.eps, variance

    def whitened(self, z: Tensor) -> Tensor:
        """The normalised input, before scale and shift."""
        axes, shape = (0, *range(2, z.ndim)), (1, -1, *[1] * (z.ndim - 2))
        own, given = z.var(axes, unbiased=False, keepdim=True), self.variance.view(shape)
        return (z - z.mean(axes, keepdim=True)) * (torch.where(given.isnan(), own, given) + self.eps).rsqrt()

    def forward(self, z: Tensor) -> Tensor:
        """Inputs `(B, C, …)`."""
        shape = (1, -1, *[1] * (z.ndim - 2))
        return self.whitened(z) * self.weight.view(shape) + self.bias.view(shape)


def _variance(seen: Observation, layer: str, norm: str, module: nn.Module, rounding: float) -> Tensor | None:
    gradient, scale = seen.gradient_of(layer, "weight"), seen.gradient_of(norm, "weight")
    if gradient is None or scale is None or not isinstance(module, _BatchNorm):
        return None
    products = seen.network.get_submodule(layer).get_parameter("weight").detach() * gradient
    size, noise = products.flatten(1).sum(1), rounding * products.flatten(1).norm(dim=1)
    v = module.eps * (module.weight.detach() * scale / size - 1)
    told = (v > 0) & v.isfinite() & (3 * noise < size.abs())
    return torch.where(told, v, torch.nan) if told.any() else None
