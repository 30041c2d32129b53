"""A network opened from its end: what its layers were fed, exactly, before any image is guessed.

The last layer's δ is known (Lemma 3.1), and so is the derivative wherever a parameter is added entry by entry
(`added_parameters`). A layer whose δ is known gives its input away (`input_from_gradient`). The rectifier that made
this input was on where it is positive, so δ is known one layer further down, and so on, until an input is not
determined or something else (a pooling's choice, an activation that does not show its slope) hides the derivative.

Nothing is read off the network's structure. Autograd walks from the last layer towards the image, at a few guesses of
the image at once; a known input takes the place of every tensor that equals it at the guesses, such as the one that a
rectifier keeps for its derivative; and δ is known where it is the same for all guesses.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from leakage_audit.equations.added_parameters import AddedParameters
from leakage_audit.equations.base import Block
from leakage_audit.equations.input_from_gradient import InputOptions, PartialInput, solve_for_input
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.networks.layer_types import type_of
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class RecoveryOptions(Checked):
    """How it is told what is known.

    Attributes:
        guesses: Of the image: an unknown derivative differs between them by its own size.
        spread: Standard deviation of the guesses around grey, a photograph's.
        same: Relative difference between guesses below which a derivative is known; rounding leaves 1e-15.
        cut: Entries of an input within this many standard deviations of zero are zero: one wrong unit in 1.7 million.
        inputs: When an input counts as found.
    """

    guesses: int = 4
    spread: float = 0.2
    same: float = 1e-6
    cut: float = 5.0
    inputs: InputOptions = field(default_factory=InputOptions)

    def __post_init__(self) -> None:
        self.check(positive=("guesses", "spread", "same", "cut"))
        if self.guesses < 2:
            raise ValueError(f"RecoveryOptions.guesses must be at least 2, to differ, got {self.guesses}")


@dataclass
class RecoveredInput:
    """A layer that gave its input away.

    Attributes:
        name: The layer's path in the network.
        input: What is known of it.
        input_gradient: ∂L/∂input, `(C, H, W)` or `(C,)`, over all the ways in which it counts; None if it is not known.
        is_bottleneck: Whether the image is known to count through this input only.
    """

    name: str
    input: PartialInput
    input_gradient: Tensor | None = None
    is_bottleneck: bool = False

    @property
    def block(self) -> Block:
        """What is known, as equations in the image."""
        return Block(f"input of {self.name}", self.input.value.flatten(), self.input.noise.flatten())


def recover_backwards(
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
        self._recovered: dict[str, RecoveredInput] = {}
        for name, module in network.named_modules():
            gradient = seen.gradient_of(name, "weight")
            if gradient is not None and type_of(module) is not None:
                module.register_forward_hook(self._watch(name, gradient))

    def __call__(self, end: Tensor, delta: Tensor, image: Tensor) -> list[RecoveredInput]:
        """Walk from `end`, where the derivative is `delta`, to `image`."""
        torch.autograd.grad(end, image, delta, retain_graph=True)
        found = list(self._recovered.values())
        for layer in found:
            layer.input_gradient = self._input_gradients.get(layer.name)
        whole = [layer for layer in found if layer.input.basis is None]
        if whole:
            self._added.forget()  # what lies below would not be zero
            self._inputs[whole[-1].name].register_hook(torch.zeros_like)
            whole[-1].is_bottleneck = not torch.autograd.grad(end, image, delta)[0].any()
        return found

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
        found = solve_for_input(layer, guess.shape[1:], delta[0], gradient, self._rounding, self._options.inputs)
        if found is None:
            return
        self._recovered[name] = RecoveredInput(name, found)
        if found.basis is None:
            value = found.value.where(found.value.abs() > self._options.cut * found.noise, 0.0)
            self._values.append((guess.detach(), found.arrangement.input(value).flatten()))

    def _keep(self, name: str, input_gradient: Tensor) -> None:
        if name not in self._input_gradients and _same(input_gradient, self._options.same):
            self._input_gradients[name] = input_gradient[0].detach()


def _same(derivative: Tensor, tolerance: float) -> bool:
    """Whether the derivative is the same for all guesses, and not zero."""
    apart = float((derivative - derivative[:1]).norm())
    return apart <= tolerance * float(derivative.norm()) and bool(derivative.any())
