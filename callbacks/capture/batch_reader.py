"""Images and targets of the training's batches, read off clones of them: a user's unpack may write where it reads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from leakage_audit.callbacks.capture import batches
from leakage_audit.callbacks.capture.batches import Target
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.loss_lookup import named
from leakage_audit.callbacks.capture.own_copy import clone, own
from leakage_audit.callbacks.capture.step_gradients import MicroBatch

Unpack = str | Callable[[Any], tuple[Tensor, Tensor]]


class BatchReader:
    """Reads batches.

    Args:
        unpack: `unpack(batch)` to images and labels, or its dotted name; None looks for the tensors that fit.
    """

    def __init__(self, unpack: Unpack | None = None) -> None:
        self._unpack = unpack

    def images(self, batch: Any, model_copy: nn.Module) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        """Images `(B, C, H, W)` and, by name, what else there is one of an image, on memory of their own.

        Args:
            batch: Left as it is.
            model_copy: Of the module, of which `unpack` may be a method.

        Raises:
            AuditSkipped: If the batch is not understood.
        """
        try:
            if self._unpack is None:
                images, others = batches.unpack(clone(batch))
            else:
                images, labels = own(named(model_copy, self._unpack), model_copy)(clone(batch))
                others = [("labels", labels)]
            return images.detach().clone(), [(name, tensor.detach().clone()) for name, tensor in others]
        except Exception as error:  # a user's unpack may raise anything
            said = str(error) if self._unpack is None else f"`unpack` failed: {type(error).__name__}: {error}"
            raise AuditSkipped(said) from error

    def pair(self, target: Target, batch: MicroBatch, which: str, model_copy: nn.Module) -> tuple[Tensor, Tensor]:
        """Images and targets of a batch.

        Args:
            target: Which of its tensors is the target.
            batch: Of the window.
            which: `start` for the batch as it was when it began, `now` for what the step has made of it.
            model_copy: See `images`.

        Raises:
            AuditSkipped: If the batch is not understood.
        """
        images, others = self.images(batch.batch if which == "start" else batch.original, model_copy)
        try:
            return images, target.read([tensor for _, tensor in others])
        except ValueError as error:
            raise AuditSkipped(str(error)) from error


def moved(batch: MicroBatch) -> bool:
    """Whether the step has written into the batch."""
    then, now = batches.tensors(batch.batch), batches.tensors(batch.original)
    return len(then) != len(now) or not all(torch.equal(a, b) for a, b in zip(then, now, strict=True))
