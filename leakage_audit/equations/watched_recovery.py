"""A network that `torch.fx` cannot follow, or that an added parameter opens, walked back as autograd walks.

The last layer's δ is known (Lemma 3.1), and so is the derivative wherever a parameter is added entry by entry
(`added_parameters`). What is known below follows as in `backward_recovery`, for one image.

Nothing is read off the network's structure. Autograd walks from the last layer towards the image, at a few guesses of
the image at once; a known input takes the place of every tensor that equals it at the guesses, such as the one that a
rectifier keeps for its derivative; and δ is known where it is the same for all guesses.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from leakage_audit.equations.added_parameters import AddedParameters
from leakage_audit.equations.input_from_gradient import PartialInput, Reader, solve_for_input
from leakage_audit.equations.known_inputs import RecoveredInput, RecoveryOptions
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.networks.layer_types import type_of
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget


def watch_backwards(
    seen: Observation,
    rounding: float,
    seed: int = 0,
    options: RecoveryOptions | None = None,
    budget: Budget | None = None,
) -> list[RecoveredInput]:
    """The inputs that follow from the gradients alone, the last layer's first, the one nearest the image last.

    Args:
        seen: What leaked, in float64.
        rounding: Relative error of a gradient's entry, as `base.relative_error_of` has it.
        seed: Of the guesses.
        options: How it is told what is known.
        budget: Time limit; none by default.

    Returns:
        Nothing where more than one image was seen, or no derivative is known.
    """
    if seen.batch_size > 1:
        return []
    options, network = options or RecoveryOptions(), stateless(seen.network)
    last = last_layer(seen)
    delta = None if last is None else last.delta
    generator = torch.Generator().manual_seed(seed)
    guesses = torch.randn(options.guesses, *seen.input_shape, generator=generator, dtype=seen.dtype).to(seen.device)
    image = seen.to_input(GREY + options.spread * guesses).requires_grad_()
    added = AddedParameters(seen, network, options.guesses, options.same)
    walk = _Walk(seen, network, added, rounding, options, budget or Budget())
    with saved_tensors_hooks(lambda tensor: tensor, walk.known):
        with added:
            scores = network(image)
        known = added.set_known(scores)
        end = None if last is None or delta is None else walk.outputs.get(last.name)
        if end is not None and delta is not None and delta.any() and end.shape == (options.guesses, len(delta)):
            return walk(end, delta.expand_as(end), image)
        unknown = torch.randn(scores.shape, generator=generator, dtype=scores.dtype).to(scores)
        return walk(scores, unknown, image) if known else []


class _Walk:
    """What is found while autograd walks back."""

    def __init__(
        self,
        seen: Observation,
        network: nn.Module,
        added: AddedParameters,
        rounding: float,
        options: RecoveryOptions,
        budget: Budget,
    ) -> None:
        self._added, self._rounding, self._options, self._budget = added, rounding, options, budget
        self._inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._repeated: set[str] = set()
        self._values: list[tuple[Tensor, Tensor]] = []
        self._input_gradients: dict[str, Tensor] = {}
        self._recovered: dict[str, PartialInput] = {}
        for name, module in network.named_modules():
            gradient = seen.gradient_of(name, "weight")
            if gradient is not None and type_of(module) is not None:
                module.register_forward_hook(self._watch(name, gradient))

    def __call__(self, end: Tensor, delta: Tensor, image: Tensor) -> list[RecoveredInput]:
        """Walk from `end`, where the derivative is `delta`, to `image`."""
        torch.autograd.grad(end, image, delta, retain_graph=True)
        whole = [name for name, found in self._recovered.items() if found.basis is None]
        bottleneck = None
        if whole:
            self._added.forget()  # what lies below would not be zero
            self._inputs[whole[-1]].register_hook(torch.zeros_like)
            bottleneck = None if torch.autograd.grad(end, image, delta)[0].any() else whole[-1]
        return [
            RecoveredInput(name, found, self._input_gradients.get(name), name == bottleneck)
            for name, found in self._recovered.items()
        ]

    def known(self, kept: Tensor) -> Tensor:
        """What a tensor kept for a derivative was in the observed step, where that is known; else itself."""
        for guess, value in self._values:
            if kept.numel() == guess.numel() and torch.equal(kept.flatten(), guess.flatten()):
                return value.expand(self._options.guesses, -1).reshape(kept.shape).clone()
        return kept

    def _watch(self, name: str, gradient: Tensor) -> Callable:
        """Of a layer: its input and output on the way up, their derivatives on the way down."""

        def up(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._budget.check()
            if name in self.outputs:
                self._repeated.add(name)  # the gradient is then a sum over its uses
            (guess,) = inputs
            self._inputs[name], self.outputs[name] = guess, output
            if len(guess) == self._options.guesses and output.requires_grad:
                output.register_hook(lambda delta: self._open(name, layer, guess, delta, gradient))
                guess.register_hook(lambda input_gradient: self._keep(name, input_gradient))

        return up

    def _open(self, name: str, layer: nn.Module, guess: Tensor, delta: Tensor, gradient: Tensor) -> None:
        self._budget.check()
        if name in self._recovered or name in self._repeated or not _same(delta, self._options.same):
            return
        reader, shape = Reader(layer, delta[:1], gradient), tuple(guess.shape[1:])
        found, _ = solve_for_input([reader], shape, self._rounding, self._options.inputs, self._budget)
        if found is None:
            return
        self._recovered[name] = found
        if found.basis is None:
            value = found.value.where(found.value.abs() > self._options.pattern.cut * found.noise, 0.0)
            self._values.append((guess.detach(), found.arrangement.input(value).flatten()))

    def _keep(self, name: str, input_gradient: Tensor) -> None:
        if name not in self._input_gradients and _same(input_gradient, self._options.same):
            self._input_gradients[name] = input_gradient[:1].detach()


def _same(derivative: Tensor, tolerance: float) -> bool:
    """Whether the derivative is the same for all guesses, and not zero."""
    apart = float((derivative - derivative[:1]).norm())
    return apart <= tolerance * float(derivative.norm()) and bool(derivative.any())
