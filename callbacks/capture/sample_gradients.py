"""Each image's own gradient of a step, for defences that clip before they average."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.input_range import InputRange
from leakage_audit.callbacks.capture.model_copy import Forward
from leakage_audit.callbacks.capture.step_gradients import MicroBatch
from leakage_audit.callbacks.capture.step_reader import StepReader
from leakage_audit.defences.clip_per_sample import sample_gradients
from leakage_audit.observation import Loss


class PerSample:
    """Reads steps as an audit does, and takes their gradients apart image by image; dropout counts as off.

    A step that is not understood is an error: gradients that cannot be clipped must not go out unclipped.

    Args:
        forward: See `StepReader`.
        loss: See `StepReader`.
        unpack: See `StepReader`.

    Attributes:
        given: These three.
    """

    def __init__(
        self, forward: Forward | None, loss: str | Loss | None, unpack: str | Callable[[Any], Any] | None
    ) -> None:
        self.given = forward, loss, unpack
        self._reader = StepReader(forward=forward, loss=loss, unpack=unpack, inputs=InputRange(0.0, 1.0))

    def remember(self, trainer: Trainer, module: LightningModule, batch: Any, index: int, first: bool) -> MicroBatch:
        """Keep a batch that is about to be trained on, and the module as it is at the window's start."""
        if first:
            self._reader.begin(module, trainer)
        return self._reader.micro_batch(batch, index)

    def forget(self) -> None:
        """Let go of the step."""
        self._reader.forget()

    def __call__(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, window: Sequence[MicroBatch]
    ) -> dict[str, Tensor]:
        """Each image's gradient by the parameter's name in the module, `(B, …)`.

        Raises:
            MisconfigurationException: If the step is not understood, or images have no gradients of their own.
        """
        try:
            read = self._reader.read(trainer, module, optimizer, window)
            if not read.check.same:
                raise MisconfigurationException(f"the step's gradient {read.check}")
            (whole,) = self._reader.whole(trainer, module, read.gradients)
            seen, outer = whole.seen, {id(g): name for name, g in read.gradients.items()}
            x, loss = seen.to_input(whole.truth), seen.loss
            found = sample_gradients(seen.network, loss, x, whole.labels, list(seen.gradients))
        except (AuditSkipped, ValueError, RuntimeError) as error:
            raise MisconfigurationException(f"the gradient cannot be clipped image by image: {error}") from error
        return {outer[id(seen.gradients[name])]: g for name, g in found.items()}
