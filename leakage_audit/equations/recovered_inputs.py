"""Equations of a network that opens from its end: the inputs that it gave away, and what lies below them.

An input that is known is an equation `h(image) = h` with no derivative in it: continuous, and as straight as the few
layers below it. All that lies above an input through which alone the image counts is a function of it, and the
gradients below it are those of ⟨∂L/∂h, h(image)⟩, summed over the images of a batch, whatever lies above
(docs/method.md, section 5.3, (M32)).
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.base import Equations
from leakage_audit.equations.count_sketch import SketchOptions, sketch_gradients
from leakage_audit.equations.known_inputs import RecoveredInput, nearest_the_image
from leakage_audit.equations.told_statistics import Centred, told_variances
from leakage_audit.networks.stateless import activation_count, stateless
from leakage_audit.observation import Observation, copy_network
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget


class RecoveredInputEquations(Equations):
    """Known inputs of layers, and the gradients below them; the network is only run as far as these layers.

    Args:
        seen: What leaked, in float64.
        recovered: What `recover_backwards` found, at least one input.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        sketch: How many of the equations are kept.
        budget: Limits of time and memory; none by default.
        gradients: Whether the gradients below count.
    """

    def __init__(
        self,
        seen: Observation,
        recovered: list[RecoveredInput],
        relative_error: float,
        sketch: SketchOptions | None = None,
        budget: Budget | None = None,
        gradients: bool = True,
    ) -> None:
        sketch = sketch or SketchOptions()
        self._made_of = recovered, relative_error, sketch, gradients
        self._network, self._layers = stateless(seen.network), nearest_the_image(recovered)
        first, self._coupling = self._layers[0], list[Tensor]()
        self._inputs: dict[str, Tensor] = {}
        self._handles = []
        for layer in self._layers:
            module = self._network.get_submodule(layer.name)
            self._handles.append(module.register_forward_pre_hook(self._keep(layer.name, last=layer is first)))
        blocks = [layer.block for layer in self._layers]
        below = self._below(seen) if gradients and first.is_bottleneck and first.input_gradient is not None else {}
        self._parameters = {name: self._network.get_parameter(name).detach() for name in below}
        n = seen.batch_size * math.prod(seen.input_shape)
        spare = max(sketch.plenty * n - sum(b.target.numel() for b in blocks), n)
        self._sketches, summed_up = sketch_gradients(below, int(spare), relative_error, sketch.seed)
        super().__init__(seen, blocks + summed_up, budget)

    @property
    def end(self) -> RecoveredInput:
        """Of the inputs known altogether the one nearest the image; where there is none, the last one's known part."""
        return ([layer for layer in self._layers if layer.input.basis is None] or self._layers[:1])[-1]

    @property
    def known(self) -> int:
        """Entries of the inputs known altogether."""
        return sum(layer.input.value.numel() for layer in self._layers if layer.input.basis is None)

    @property
    def mixes(self) -> bool:
        """Whether a normalisation in training mode lies below the known inputs, so that they depend on all images."""
        met: list[nn.Module] = []
        norms = [m for m in self._network.modules() if isinstance(m, _BatchNorm) and m.training]
        handles = [norm.register_forward_pre_hook(lambda module, _: met.append(module)) for norm in norms]
        with torch.no_grad():
            self.run(torch.full(self.shape, GREY).to(self.noise))
        for handle in handles:
            handle.remove()
        return bool(met)

    def without_gradients(self) -> "RecoveredInputEquations | None":
        """The known inputs alone: continuous in the images and a few times cheaper; None if nothing else is here."""
        recovered, relative_error, sketch, _ = self._made_of
        if not self._parameters:
            return None
        return RecoveredInputEquations(self.seen, recovered, relative_error, sketch, self._budget, gradients=False)

    def at_statistics_of(self, image: Tensor, gradients: bool) -> "RecoveredInputEquations":
        """The same, normalised below by the statistics of some images: straighter, and each image by itself.

        Args:
            image: Of any shape, `(B, C, H, W)` altogether.
            gradients: Whether the gradients below count, which cost most of the time.
        """
        network = copy_network(self.seen.network)
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training]
        handles = [norm.register_forward_pre_hook(_freeze) for norm in norms]
        with torch.no_grad():
            network(self.seen.to_input(image.reshape(self.shape)))
        for handle in handles:
            handle.remove()
        recovered, relative_error, sketch, _ = self._made_of
        seen = replace(self.seen, network=network)
        frozen = RecoveredInputEquations(seen, recovered, relative_error, sketch, self._budget, gradients)
        for name, module in network.named_modules():
            shift, scale = (seen.gradient_of(name, kind) for kind in ("bias", "weight"))
            if module in norms and shift is not None and scale is not None:
                own = frozen._network.get_submodule(name)
                frozen._handles.append(own.register_forward_hook(frozen._couple(shift, scale)))
        return frozen

    def at_told_statistics(self, gradients: bool | None = None) -> "RecoveredInputEquations | None":
        """The same, normalised by the variances that ε tells (`told_statistics`), so that the images have a size.

        Args:
            gradients: Whether the gradients below count; as here by default.

        Returns:
            None if a normalisation below is not told.
        """
        recovered, relative_error, sketch, here = self._made_of
        gradients = here if gradients is None else gradients
        told = told_variances(self.seen, relative_error)
        network = copy_network(self.seen.network)
        for name, variance in told.items():
            (parent, _, child), norm = name.rpartition("."), self.seen.network.get_submodule(name)
            assert isinstance(norm, _BatchNorm)
            setattr(network.get_submodule(parent), child, Centred(norm, variance))
        centred = RecoveredInputEquations(
            replace(self.seen, network=network), recovered, relative_error, sketch, self._budget, gradients
        )
        if centred.mixes:
            return None
        for name in told:
            scale, own = self.seen.gradient_of(name, "weight"), centred._network.get_submodule(name)
            if scale is not None:
                centred._handles.append(own.register_forward_hook(centred._couple_size(scale)))
        return centred

    def _couple_size(self, scale: Tensor) -> Callable:
        """Hook of `Centred`: what is missing of (M80) where the variance is a given number; `scale` is ∂L/∂γ."""

        def couple(module: Centred, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            z = inputs[0]
            squares = module.whitened(z).square().transpose(0, 1).flatten(1).sum(1)
            given = module.weight.detach() * scale * ~module.variance.isnan()
            self._coupling.append(-(given * squares).sum() / 2 / (z.numel() / z.shape[1]))

        return couple

    def close(self) -> None:
        """Let go of the network, which refers to these equations; they cannot be evaluated any more."""
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()

    def _couple(self, shift: Tensor, scale: Tensor) -> Callable:
        """Hook of a normalisation by given statistics: what batch statistics add to the derivative at its input, (M80).

        Args:
            shift: ∂L/∂β.
            scale: ∂L/∂γ.
        """

        def couple(module: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert module.running_mean is not None
            assert module.running_var is not None
            z, shape = inputs[0], (1, -1, *[1] * (inputs[0].ndim - 2))
            whitened = (z - module.running_mean.view(shape)) * (module.running_var + module.eps).rsqrt().view(shape)
            size = 1.0 if module.weight is None else module.weight.detach().view(shape)
            share = size * (shift.view(shape) + whitened * scale.view(shape) / 2) * whitened
            self._coupling.append(-share.sum() / (z.numel() / z.shape[1]))

        return couple

    def _keep(self, name: str, last: bool) -> Callable:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._inputs[name] = inputs[0]
            if last:
                raise _Reached

        return keep

    def _run(self, x: Tensor, parameters: dict[str, Tensor]) -> None:
        """The network as far as the first input that is known altogether."""
        with contextlib.suppress(_Reached):
            functional_call(self._network, parameters, (x,))

    def run(self, image: Tensor) -> None:
        """See `Equations`."""
        self._run(self.seen.to_input(image), {})

    def _below(self, seen: Observation) -> dict[str, Tensor]:
        """The gradients on this side of the known input, but for the weights that their layers' inputs stand for."""
        grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
        own = {name: self._network.get_parameter(name).detach().requires_grad_() for name in seen.gradients}
        self._run(seen.to_input(grey), own)
        h = self._inputs[self._layers[0].name]
        if not h.requires_grad:
            return {}
        found = torch.autograd.grad(h.sum(), list(own.values()), allow_unused=True)
        stood_for = {f"{layer.name}.weight" for layer in self._layers}
        return {
            name: seen.gradients[name]
            for name, g in zip(own, found, strict=True)
            if g is not None and name not in stood_for
        }

    @property
    def memory_estimate(self) -> int:
        """Every output on the way to the known input and every gradient, forth and back twice."""
        x = self.seen.to_input(torch.full(self.shape, GREY).to(self.noise))
        outputs = activation_count(self._network, lambda: self._run(x, {}))
        return 8 * (outputs + x.numel()) + 4 * sum(p.numel() for p in self._parameters.values())

    def _objective(self, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """⟨∂L/∂h, h⟩ at the known input, and each layer's block."""
        self._coupling.clear()
        self._run(x, parameters)
        coupling, self._coupling = self._coupling, []
        known = []
        for layer in self._layers:
            known.append(layer.input.of(self._inputs[layer.name]).flatten())
        h, input_gradient = self._inputs[self._layers[0].name], self._layers[0].input_gradient
        own = h.flatten() @ input_gradient.flatten() if input_gradient is not None else h.sum()
        return sum(coupling, own), known

    def values(self, image: Tensor) -> list[Tensor]:
        """Inputs of the recovered layers at `image (B, C, H, W)`, and the (summed) gradients below them."""
        x = self.seen.to_input(image)
        if not self._parameters:
            return self._objective({}, x)[1]
        found, known = grad(self._objective, has_aux=True)(self._parameters, x)
        return [*known, *(s(found[name].flatten()) for name, s in zip(self._parameters, self._sketches, strict=True))]


def _freeze(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
    """Keep the statistics of what a normalisation is fed, and take them from now on."""
    axes = (0, *range(2, inputs[0].ndim))
    module.running_mean, module.running_var = inputs[0].mean(axes), inputs[0].var(axes, unbiased=False)
    module.eval()


class _Reached(Exception):
    """The forward pass has come as far as it needs to."""
