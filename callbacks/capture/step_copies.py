"""The module as it was at the moments of a step: copies that nothing runs on, and the memory that they take."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.module_copy import copy_module
from leakage_audit.runtime import Budget, bytes_of

# Held at most while a step is read: the module as it began, as it is now, and a copy that runs; the step's gradient and
# the one that is recomputed. What a pass keeps the training's own pass took as well, and has let go of.
COPIES = 3
GRADIENTS = 2


class StepCopies:
    """A step's module at the start of its window, as it is now, and in whichever of these states fitted.

    Attributes:
        dropped: What could not be copied, as `name (type)`.
    """

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self._start: nn.Module | None = None
        self._now: nn.Module | None = None
        self._fitted: nn.Module | None = None

    def begin(self, module: nn.Module, trainer: Any, budget: Budget) -> None:
        """Keep the module as it is when a window begins.

        Args:
            module: The LightningModule.
            trainer: Of the fit.
            budget: Whose memory must do for the whole reading of the step.

        Raises:
            AuditSkipped: If the module cannot be copied.
            OutOfMemory: If the memory would not do; nothing is copied then.
        """
        budget.require_memory("reading a step", COPIES * _bytes(module) + GRADIENTS * _gradient_bytes(module))
        self._start = self.copy(module, trainer)

    @property
    def start(self) -> nn.Module:
        """The module as the window began; `begin` comes first."""
        assert self._start is not None
        return self._start

    def at(self, when: str, module: nn.Module, trainer: Any) -> nn.Module:
        """The module at the `start` of the window or `now`, which is copied once a step."""
        if when == "start":
            return self.start
        self._now = self.copy(module, trainer) if self._now is None else self._now
        return self._now

    @property
    def fitted(self) -> nn.Module | None:
        """The module in the state that the step was read in; None before that."""
        return self._fitted

    def settle(self, fitted: nn.Module) -> None:
        """Note in which state the step was read."""
        self._fitted = fitted

    def end(self) -> None:
        """Keep no more than the state that fitted."""
        self._start = self._now = None

    def forget(self) -> None:
        """Let go of all of them."""
        self._start = self._now = self._fitted = None

    @property
    def held(self) -> int:
        """Bytes of what is kept."""
        return bytes_of(
            t for kept in (self._start, self._now, self._fitted) if kept is not None for t in _tensors(kept)
        )

    @property
    def one_more(self) -> int:
        """Bytes of one more copy and of its gradient."""
        kept = self._fitted if self._fitted is not None else self.start
        return _bytes(kept) + _gradient_bytes(kept)

    def copy(self, module: nn.Module, trainer: Any) -> nn.Module:
        """A copy to run, of a module or of a copy of it.

        Raises:
            AuditSkipped: If it cannot be copied.
        """
        try:
            made, dropped = copy_module(module, trainer)
        except Exception as error:  # deepcopy lets through whatever a user's attribute raises
            raise AuditSkipped(
                f"{type(module).__name__} cannot be copied for the audit ({type(error).__name__}: {error}); give the "
                "class of what cannot be copied a __deepcopy__"
            ) from error
        self.dropped += [name for name in dropped if name not in self.dropped]
        return made


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(module: nn.Module) -> int:
    return bytes_of(_tensors(module))


def _gradient_bytes(module: nn.Module) -> int:
    return bytes_of(p for p in module.parameters() if p.requires_grad)
