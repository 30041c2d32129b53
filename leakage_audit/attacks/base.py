"""What an attack is: an observation in, a reconstruction out, settings and manner of ending written down."""

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from leakage_audit.attacks.ending import EndingOptions, misfit
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.observation import Observation
from leakage_audit.options import recorded
from leakage_audit.runtime import Budget, OutOfMemory, single_blas


@dataclass(frozen=True)
class Found:
    """What the inside of an attack hands to its frame.

    Attributes:
        x: The network's inputs `(B, C, H, W)`.
        converged: Whether the attack came to its own end (`ending`).
        ended: One sentence on how it ended.
        residual: Its own objective at `x`; what it measures is the attack's to say.
        details: Whatever else the attack knows about its result; plain numbers, strings and tensors. `labels` are
            those by which the images are to be judged, where they are not the observation's.
    """

    x: Tensor
    converged: bool
    ended: str
    residual: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reconstruction:
    """An attack's result, with everything needed to run it again.

    Attributes:
        images: `(B, C, H, W)` in image space, not clipped.
        attack: The attack's name.
        settings: Its constructor's arguments, as plain values.
        seconds: Wall-clock time.
        converged: Whether the attack came to its own end: its objective settled, or its method is direct. False where
            time or its number of steps cut it short, or it could not begin.
        ended: One sentence on how it ended.
        residual: The attack's own objective at the end.
        details: Whatever else the attack knows about its result.
        misfit: How far the images' gradient is from the observed one, in units of what rounding and noise allow.
    """

    images: Tensor
    attack: str
    settings: dict[str, Any]
    seconds: float
    converged: bool
    ended: str
    residual: float
    details: dict[str, Any] = field(default_factory=dict)
    misfit: float = math.nan

    @property
    def succeeded(self) -> bool:
        """Whether the images' gradient agrees with the observed one, to the precision that the noise allows."""
        return self.misfit <= 1


class Attack(ABC):
    """Observation to reconstruction.

    A subclass names itself, keeps each constructor argument as an attribute of the same name, and implements
    `reconstruct`. It draws random numbers from a generator of its own and leaves the global streams alone.

    Attributes:
        name: What it is called.
        choice: The constructor's argument that `name:value` sets, if there is one.
        ending: When it has converged, and when it has succeeded.
    """

    name: ClassVar[str]
    choice: ClassVar[str | None] = None
    ending: EndingOptions = EndingOptions()

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name, as a record holds them: plain values, options by field."""
        return {name: recorded(value) for name, value in self.arguments.items()}

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name; another attack can be made of them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @abstractmethod
    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Find the network's inputs from what was seen; stop, with the best so far, when the budget is exhausted."""

    def __call__(self, seen: Observation, budget: Budget | None = None) -> Reconstruction:
        """Attack an observation.

        Args:
            seen: What leaked.
            budget: Time limit and progress report; none by default.

        Returns:
            The reconstruction; a gradient that holds nothing (zero, NaN) gives a grey image, marked and explained.

        Raises:
            OutOfTime: If the time was up before anything was found.
            OutOfMemory: If the attack needs more memory than the budget allows.
        """
        start = time.perf_counter()
        problem = seen.problem()
        if problem is None:
            with _isolated(seen):
                found = self.reconstruct(seen, budget or Budget())
        else:
            grey = torch.full((seen.batch_size, *seen.input_shape), sum(seen.value_range) / 2, dtype=seen.dtype)
            found = Found(seen.to_input(grey.to(seen.device)), False, problem, float("nan"))
        result = Reconstruction(
            images=seen.to_image(found.x.detach()),
            attack=self.name,
            settings=self.settings,
            seconds=time.perf_counter() - start,
            converged=found.converged,
            ended=found.ended,
            residual=found.residual,
            details=found.details,
        )
        return self.judged(result, seen, budget)

    def judged(self, found: Reconstruction, seen: Observation, budget: Budget | None = None) -> Reconstruction:
        """A result with its misfit, NaN where there is nothing to compare.

        Args:
            found: What the attack made of `seen`.
            seen: What leaked, as far as its noise is known to whoever judges.
            budget: Limit of memory: where double precision does not fit, the gradient's own type judges.

        Raises:
            OutOfMemory: If that does not fit either.
        """
        if found.images.shape[1:] != seen.input_shape or math.isnan(found.residual):
            return found
        try:
            with _isolated(seen):
                labels = found.details["labels"] if "labels" in found.details else labels_for(seen)[0]
                x = seen.to_input(found.images)
                try:
                    apart = misfit(seen, x, labels, self.ending, budget=budget)
                # A network that runs in its own type only, or too little memory.
                except (RuntimeError, TypeError, AssertionError, OutOfMemory):
                    apart = misfit(seen, x, labels, self.ending, seen.dtype, budget)
        except (ValueError, RuntimeError):  # no labels to judge by, or nothing that can be recomputed
            return found
        return replace(found, misfit=apart, converged=found.converged or apart <= 1)


@contextmanager
def _isolated(seen: Observation) -> Iterator[None]:
    """Gradients on, one BLAS thread, and the global random streams as they were afterwards."""
    cuda = [seen.device] if seen.device.type == "cuda" else []
    with single_blas(), torch.random.fork_rng(cuda), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(0)  # for networks that draw as they run: dropout in train mode
        yield
