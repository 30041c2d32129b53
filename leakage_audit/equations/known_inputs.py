"""What is known of a network's layers, where a walk back starts and what it finds."""

from dataclasses import dataclass, field

from torch import Tensor

from leakage_audit.equations.base import Block
from leakage_audit.equations.batch_statistics import StatisticsOptions
from leakage_audit.equations.forgotten_by_statistics import ForgottenOptions
from leakage_audit.equations.input_from_gradient import InputOptions, PartialInput
from leakage_audit.equations.rectifier_pattern import PatternOptions
from leakage_audit.layerwise.fully_connected import input_from_gradient
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.observation import Observation
from leakage_audit.options import Checked


@dataclass(frozen=True)
class RecoveryOptions(Checked):
    """How it is told what is known.

    Attributes:
        guesses: Of the images: an unknown derivative differs between them by its own size.
        spread: Standard deviation of the guesses around grey, a photograph's.
        same: Relative difference between guesses below which a derivative is known; rounding leaves 1e-15.
        pattern: How rectifiers' patterns are read off their outputs.
        statistics: How inputs are found below batch normalisation in training mode.
        forgotten: When what these statistics forget counts as told.
        inputs: When an input counts as found.
    """

    guesses: int = 4
    spread: float = 0.2
    same: float = 1e-6
    pattern: PatternOptions = field(default_factory=PatternOptions)
    statistics: StatisticsOptions = field(default_factory=StatisticsOptions)
    forgotten: ForgottenOptions = field(default_factory=ForgottenOptions)
    inputs: InputOptions = field(default_factory=InputOptions)

    def __post_init__(self) -> None:
        self.check(positive=("guesses", "spread", "same"))
        if self.guesses < 2:
            raise ValueError(f"RecoveryOptions.guesses must be at least 2, to differ, got {self.guesses}")


@dataclass(frozen=True)
class Known:
    """What is known of each image where the walk starts.

    Attributes:
        layer: A layer's name.
        derivative: ∂L/∂(its output), `(B, …)`, or ∂L/∂(its input) if `of_input`.
        input: What it is fed, `(B, …)`.
        noise: Standard deviation of the entries of `input`, `(B,)`.
        of_input: Which derivative it is.
    """

    layer: str
    derivative: Tensor
    input: Tensor
    noise: Tensor
    of_input: bool = False


@dataclass(frozen=True)
class RecoveredInput:
    """A layer that gave its input away.

    Attributes:
        name: The layer's path in the network.
        input: What is known of it.
        input_gradient: ∂L/∂input, `(B, C, H, W)` or `(B, C)`, over all the ways in which it counts; None where it is
            not known.
        is_bottleneck: Whether the images are known to count through this input only.
    """

    name: str
    input: PartialInput
    input_gradient: Tensor | None = None
    is_bottleneck: bool = False

    @property
    def block(self) -> Block:
        """What is known, as equations in the images."""
        return Block(f"input of {self.name}", self.input.value.flatten(), self.input.noise.flatten())


def known_at_the_end(seen: Observation, rounding: float) -> Known | None:
    """Lemma 3.1 for one image; None for several, or without a fully connected last layer with a bias."""
    last = last_layer(seen)
    if last is None or seen.batch_size > 1 or last.delta is None or not last.delta.any():
        return None
    if last.weight_gradient is None:
        return None
    x = input_from_gradient(last.weight_gradient, last.delta)
    return Known(last.name, last.delta[None], x[None], rounding * x.square().mean().sqrt()[None])


def nearest_the_image(recovered: list[RecoveredInput]) -> list[RecoveredInput]:
    """Those that say all: the last input known altogether through which alone the images count, and what lies below it.

    What is above is a function of that input; where there is none, the last one known altogether stands in for it, and
    where no input is, all that is known counts.
    """
    whole = [i for i, layer in enumerate(recovered) if layer.input.basis is None]
    alone = [i for i in whole if recovered[i].is_bottleneck and recovered[i].input_gradient is not None]
    return recovered[(alone or whole or [0])[-1] :]
