"""Any classifier's equations: its plain gradient as a function of the images, through `torch.func`.

If the last layer is fully connected with a bias, Lemma 3.1 gives the derivative δ at its output and the features at
its input, for a batch by way of `batch_separation`. Every other gradient is then that of Σ ⟨δ, W f(x) + b⟩ over the
images, whatever the loss and the labels; and the features themselves are equations, far straighter ones than the
gradients.
Otherwise the loss is differentiated as it stands, with labels granted or inferred.

Where there are many more equations than unknowns, each large block is replaced by random signed sums of its entries:
as many as decide as much, for a fraction of the Jacobian (docs/method.md, section 5.4, (M33)).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from leakage_audit.equations.base import EVALUATION, FORWARD, Block, Equations, rms
from leakage_audit.equations.batch_separation import SeparatedBatch
from leakage_audit.equations.count_sketch import SketchOptions, sketch_gradients
from leakage_audit.equations.known_inputs import RecoveredInput
from leakage_audit.layerwise.fully_connected import input_from_gradient
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.layerwise.noisy_last_layer import RankOneOptions, fit_last_layer
from leakage_audit.networks.stateless import graph_size, stateless
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class AutogradOptions(Checked):
    """Which parameters' gradients are rounding and nothing else, as a bias' before batch statistics.

    Attributes:
        own: Root mean square of a gradient recomputed at some image in float64, as a share of the largest, below which
            the loss does not depend on the parameter.
        observed: The same of the observed gradient: rounding of a cancelled sum in float32 leaves 1e-6 or so.
        spread: Standard deviation of that image around grey, a photograph's.
        noisy_last_layer: How the last layer is read where its gradient's noise is known.
    """

    own: float = 1e-10
    observed: float = 1e-4
    spread: float = 0.2
    noisy_last_layer: RankOneOptions = field(default_factory=RankOneOptions)

    def __post_init__(self) -> None:
        self.check(positive=("spread",), not_negative=("own", "observed"))


class AutogradEquations(Equations):
    """Gradients, and features where Lemma 3.1 gives them, of any differentiable classifier.

    Dropout is taken as the identity (which units it dropped is not known); batch normalisation in training mode uses
    the statistics of the candidate images, as the step did.

    Args:
        seen: What leaked, in float64; of a batch that came apart at a hidden layer, from the network that ends there.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        separated: What this network's last layer gives away of each image of a batch, where it does.
        sketch: How many of the equations are kept.
        options: Which gradients are taken for rounding.
        budget: Limits of time and memory; none by default.
        recovered: What is known of layers' inputs, which become equations of their own.
        last_input: The last layer's input, if it may be solved by itself: it is continuous in the image, as gradients
            of a network with kinks are not.

    Attributes:
        recovered: As above.
        last_input: As above.

    Raises:
        ValueError: If labels are needed and cannot be inferred.
    """

    def __init__(
        self,
        seen: Observation,
        relative_error: float,
        separated: SeparatedBatch | None = None,
        sketch: SketchOptions | None = None,
        options: AutogradOptions | None = None,
        budget: Budget | None = None,
        recovered: Sequence[RecoveredInput] = (),
        last_input: RecoveredInput | None = None,
    ) -> None:
        sketch, self._autograd = sketch or SketchOptions(), options or AutogradOptions()
        self._made_of = relative_error, separated, sketch, options, recovered, last_input
        self.seen, self._network, self._clock = seen, stateless(seen.network), budget or Budget()
        self._clock.require("a gradient in double precision", 32 * sum(g.numel() for g in seen.gradients.values()))
        self._last: Tensor | None = None
        self._features: Tensor | None = None
        self._delta: Tensor | None = None
        self._labels: Tensor | None = None
        self._told: Tensor | None = None  # which features a noisy gradient tells anything of
        self._direction: Tensor | None = None  # of δ, where noise hides its size
        gradients = dict(seen.gradients)
        blocks = self._open_last_layer(seen, gradients, relative_error, separated)
        self.recovered, self.last_input, self._inputs = list(recovered), last_input, dict[str, Tensor]()
        for layer in recovered:
            self._network.get_submodule(layer.name).register_forward_pre_hook(self._keep_input(layer.name))
        blocks += [layer.block for layer in recovered]
        if separated is not None:  # the gradients are predicted from a δ that is as uncertain as the features
            relative_error = max(
                relative_error, float((separated.noise / separated.features.square().mean(1).sqrt()).max())
            )
        if self._delta is None and self._direction is None:
            self._labels, _ = labels_for(seen)
        self._parameters = {name: p.detach() for name, p in self._network.named_parameters() if name in gradients}
        grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
        with self._clock.work(FORWARD, EVALUATION):  # tells how long, and how large, what follows will be
            kept = graph_size(self._network, lambda: self._network(seen.to_input(grey)), self._parameters.values())
        self._clock.require("one pass through the gradient", 8 * kept)
        for name in self._cancelled(gradients):
            del gradients[name], self._parameters[name]
        for name, noise in seen.noise.items():
            if name in gradients and not noise.isfinite().any():
                del gradients[name], self._parameters[name]
        spare = sketch.plenty * seen.batch_size * math.prod(seen.input_shape) - sum(b.target.numel() for b in blocks)
        known = {name: seen.noise[name].to(seen.device, seen.dtype) for name in gradients if name in seen.noise}
        self._entries = sum(g.numel() for g in gradients.values())
        self._sketches, summed_up = sketch_gradients(gradients, int(spare), relative_error, sketch.seed, known)
        super().__init__(seen, blocks + summed_up, budget)

    def _open_last_layer(
        self, seen: Observation, gradients: dict[str, Tensor], relative_error: float, separated: SeparatedBatch | None
    ) -> list[Block]:
        """Take the last layer's gradients out and put δ and the features in their place, if Lemma 3.1 applies."""
        last = last_layer(seen)
        if last is None or (seen.batch_size > 1 and separated is None):
            return []
        delta, weight = last.delta, last.weight_gradient
        fitted = fit_last_layer(seen, self._autograd.noisy_last_layer) if seen.noise and separated is None else None
        if delta is None or weight is None or not delta.any() or (seen.noise and fitted is separated):
            return []
        handle = self._network.get_submodule(last.name).register_forward_hook(self._keep)
        grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
        with self._clock.work(FORWARD, EVALUATION):
            plain = self._network(seen.to_input(grey)) is self._last  # nothing follows the last layer
        if self._features is None or self._features.shape != (seen.batch_size, weight.shape[1]):
            handle.remove()  # used on something else than one vector an image
            return []
        del gradients[last.parameter("bias")], gradients[last.parameter("weight")]
        if fitted is not None:
            straight = fitted.straight or not plain or (seen.labels is None and not seen.class_targets)
            target, std = (fitted.features, fitted.features_std) if straight else (fitted.product, fitted.std)
            self._told = std.isfinite()
            if straight:
                self._delta = fitted.delta[None]
            else:
                self._direction = fitted.direction
                self._labels = fitted.delta.argmin().reshape(1) if seen.labels is None else seen.labels
            noise = std.hypot(std.new_tensor(relative_error * rms(target)))
            if straight:
                return [Block("features", target[self._told], noise[self._told])]
            told, size = self._told[:-1], self._told[-1:]  # the bias column tells δ's size, and is one equation
            blocks = (
                Block("features", target[:-1][told], noise[:-1][told]),
                Block("δ", target[-1:][size], noise[-1:][size]),
            )
            return [block for block in blocks if len(block.target)]
        if separated is None:
            features = input_from_gradient(weight, delta)
            self._delta = delta[None]
            return [Block("features", features, relative_error * rms(features))]
        self._delta = separated.delta
        noise = separated.noise[:, None].expand_as(separated.features)
        return [Block("features", separated.features.flatten(), noise.flatten())]

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features, self._last = inputs[0], output

    def _keep_input(self, name: str) -> Callable:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._inputs[name] = inputs[0]

        return keep

    def _cancelled(self, gradients: dict[str, Tensor]) -> list[str]:
        """Parameters that the loss does not depend on, as a bias before batch statistics: rounding is all they got."""
        options, generator = self._autograd, torch.Generator().manual_seed(0)
        noise = torch.randn(self.seen.batch_size, *self.seen.input_shape, generator=generator, dtype=self.seen.dtype)
        images = self.seen.to_input(GREY + options.spread * noise.to(self.seen.device))
        with self._clock.work(kind=EVALUATION):
            here = grad(self._objective, has_aux=True)(self._parameters, images)[0]
        sizes = {name: (rms(here[name]), rms(g)) for name, g in gradients.items()}
        own = options.own * max((a for a, _ in sizes.values()), default=0.0)
        observed = options.observed * max((b for _, b in sizes.values()), default=0.0)
        return [name for name, (a, b) in sizes.items() if a < own and b < observed]

    @cached_property
    def own_rows(self) -> int:
        """Features of each image that came apart, where a change of the first one leaves the others' as they are."""
        batch = self.shape[0]
        if self._delta is None or self._told is not None or batch == 1 or self.seen.noise:
            return 0
        generator = torch.Generator().manual_seed(0)
        image = torch.full(self.shape, GREY).to(self.noise)
        image += self._autograd.spread * torch.randn(self.shape, generator=generator).to(image)
        moved = image.clone()
        moved[0] = GREY
        here, there = (self.residuals(x)[0].detach().reshape(batch, -1)[1:] for x in (image, moved))
        return self.sizes[0] // batch if torch.equal(here, there) else 0

    @property
    def memory_estimate(self) -> int:
        """Every module's output and every gradient, forth and back twice."""
        image = torch.full(self.shape, GREY).to(self.noise)
        return graph_size(self._network, lambda: self._network(self.seen.to_input(image)), self._parameters.values())

    def run(self, image: Tensor) -> None:
        """See `Equations`."""
        self._network(self.seen.to_input(image))

    def smoothed(self, image: Tensor, perturbations: Tensor) -> "AutogradEquations":
        """Themselves: a gradient jumps where its network has a kink, and is not the rounded network's on average."""
        return self

    def with_rows(self, count: int) -> "AutogradEquations":
        """See `Equations`."""
        relative_error, separated, sketch, options, recovered, last_input = self._made_of
        more = replace(sketch, plenty=count / math.prod(self.shape))
        if more.plenty <= sketch.plenty or sum(len(s) for s in self._sketches) == self._entries:
            return self
        how = self.seen, relative_error, separated, more, options, self.budget, recovered, last_input
        return AutogradEquations(*how).within(self.budget, self.options)

    def _objective(self, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is differentiated, and what is known beside its derivatives."""
        scores = functional_call(self._network, parameters, (x,))
        known = [layer.input.of(self._inputs[layer.name]).flatten() for layer in self.recovered]
        if self._delta is None or self._last is None or self._features is None:
            assert self._labels is not None  # read at construction where there is no δ
            return self.seen.loss(scores, self._labels), [*self._product(scores), *known]
        features = self._features.flatten()
        told = features if self._told is None else features[self._told]
        return (self._last * self._delta).sum(), [told, *known]

    def _product(self, scores: Tensor) -> list[Tensor]:
        """(δ·a) [x, 1] of the last layer where noise hides the size of δ; else nothing."""
        labels = self._labels
        if self._direction is None or self._features is None or self._told is None or labels is None:
            return []
        size = grad(lambda z: self.seen.loss(z, labels))(scores)[0] @ self._direction
        parts = (size * self._features.flatten())[self._told[:-1]], size[None][self._told[-1:]]
        return [part for part in parts if len(part)]

    def values(self, image: Tensor) -> list[Tensor]:
        """Features of `image (B, C, H, W)` and the (summed) gradients that training on it would share."""
        found, known = grad(self._objective, has_aux=True)(self._parameters, self.seen.to_input(image))
        sketches = [s(found[name].flatten()) for name, s in zip(self._parameters, self._sketches, strict=True)]
        return [*known, *sketches]
