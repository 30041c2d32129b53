"""Reads optimiser steps of somebody's LightningModule as observations, and checks that it reads them rightly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from leakage_audit.callbacks.capture import batches, distributed
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.gradient_check import (
    GradientCheck,
    MicroBatch,
    compare,
    compute_type,
    loss_scale,
    recompute,
    step_gradients,
)
from leakage_audit.callbacks.capture.loss_lookup import find_losses, named
from leakage_audit.callbacks.capture.model_copy import Forward, ModelCopy
from leakage_audit.callbacks.capture.rng_isolation import RngState
from leakage_audit.observation import Loss, Observation, as_tuple, observe, per_channel


@dataclass(frozen=True)
class CapturedSample:
    """An observation with what it is scored against.

    Attributes:
        seen: What the attacker sees.
        truth: The images `(B, C, H, W)` in image space; for the scores.
        labels: Their classes `(B,)`.
    """

    seen: Observation
    truth: Tensor
    labels: Tensor


class StepReader:
    """Finds forward, loss, batch and normalisation of a LightningModule, and reads its steps.

    Args:
        module: The LightningModule.
        forward: See `ModelCopy`.
        loss: `loss(scores, labels)`, or its dotted name; None looks for an attribute with a usual name, then takes
            cross entropy.
        unpack: `unpack(batch)` to images and labels, or its dotted name; None looks for the tensors that fit.
        mean: Of the normalisation; None looks for it.
        std: Of the normalisation; None looks for it.
        value_range: Of the images before normalisation.
        grant_labels: Whether the attacker is told the labels.

    Attributes:
        assumed: In sentences, what was found.
        doubts: In sentences, what looks wrong with it.
    """

    def __init__(
        self,
        module: LightningModule,
        *,
        forward: Forward | None = None,
        loss: str | Loss | None = None,
        unpack: str | Callable[[Any], tuple[Tensor, Tensor]] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        grant_labels: bool = False,
    ) -> None:
        self.model_copy = ModelCopy(module, forward)
        self._losses = find_losses(module, loss)
        self._unpack = batches.unpack if unpack is None else named(module, unpack)
        self._normalisation = None if mean is None and std is None else (_tuple(mean, 0.0), _tuple(std, 1.0))
        self.value_range, self.grant_labels = value_range, grant_labels
        self.assumed = [self.model_copy.assumed, self._losses[0][1]]
        self.doubts: list[str] = []
        self._settled = False

    @property
    def loss(self) -> Loss:
        """The loss as far as it is known; the first verified step settles it where there are several candidates."""
        return self._losses[0][0]

    def micro_batch(self, batch: Any, trainer: Trainer) -> MicroBatch:
        """Images, labels and generator states of a batch that is about to be trained on.

        Raises:
            AuditSkipped: If the batch cannot be understood.
        """
        try:
            images, labels = self._unpack(batch)
        except Exception as error:  # a user's unpack may raise anything
            raise AuditSkipped(str(error)) from error
        self._settle_normalisation(trainer, images)
        return MicroBatch(images.detach(), labels.detach(), RngState.capture())

    def gradients(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, window: Sequence[MicroBatch]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """The step's own gradients, as the mean over the window, and this rank's, recomputed by each candidate loss.

        Raises:
            AuditSkipped: If the gradients hold nothing (none, not finite, all zero).
        """
        own = step_gradients(trainer, module, optimizer)
        if not own:
            raise AuditSkipped("the optimiser's parameters have no gradient in this step")
        bad = next((name for name, g in own.items() if not torch.isfinite(g).all()), None)
        if bad is not None:
            raise AuditSkipped(f"the gradient of {bad} holds NaN or infinite values")
        if not any(g.any() for g in own.values()):
            raise AuditSkipped("every gradient is zero: the loss is flat here and nothing leaks")
        if module.automatic_optimization and len(window) != trainer.accumulate_grad_batches:
            # The last window of an epoch is shorter, yet Lightning divides by the full length.
            own = {name: g * (trainer.accumulate_grad_batches / len(window)) for name, g in own.items()}
        again = [self._recomputed(trainer, module, window, loss, own) for loss, _ in self._losses]
        self.model_copy.refresh(module)  # batch normalisation moved its statistics
        return own, again

    def _recomputed(
        self,
        trainer: Trainer,
        module: LightningModule,
        window: Sequence[MicroBatch],
        loss: Loss,
        own: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        self.model_copy.refresh(module)
        try:
            return recompute(trainer, self.model_copy, window, loss, list(own))
        except Exception:
            if len(self._losses) == 1:
                raise
            # An attribute called `loss` may be anything; one that fails is not the loss, and zeros equal no gradient.
            return {name: torch.zeros_like(gradient) for name, gradient in own.items()}

    def verify(
        self,
        trainer: Trainer,
        module: LightningModule,
        own: dict[str, Tensor],
        again: list[dict[str, Tensor]],
        length: int,
    ) -> tuple[dict[str, Tensor], GradientCheck]:
        """Compare the step's gradients with the recomputed ones, and settle the loss on the one that fits.

        Args:
            trainer: Says precision.
            module: Says who optimises, Lightning or its author.
            own: The step's.
            again: Recomputed by each candidate loss, averaged over the ranks.
            length: How many batches the window has.

        Returns:
            The step's gradients, as an average over the window, and the verdict. By hand one may as well sum over the
            window, or divide by a number of batches that the last window falls short of: such a factor is undone.
        """
        compute = compute_type(trainer, module)
        verdicts = [compare(own, candidate, compute) for candidate in again]
        best = next((i for fits in ("same", "parallel") for i, v in enumerate(verdicts) if getattr(v, fits)), None)
        if best is not None:
            self._losses = [self._losses[best]]
            self.assumed[1] = self._losses[0][1]
        verdict = verdicts[best or 0]
        if verdict.parallel and not verdict.same and not module.automatic_optimization:
            divided_by = length / verdict.scale
            if length > 1 and abs(divided_by - round(divided_by)) < verdict.tolerance * divided_by:
                own = {name: g / verdict.scale for name, g in own.items()}
                verdict = compare(own, again[best or 0], compute)
        return own, verdict

    def sample(self, trainer: Trainer, module: LightningModule, x: Tensor, label: Tensor) -> CapturedSample:
        """The gradient that a client with this one image would share at the weights of now.

        The network is in eval mode: no dropout, batch normalisation by its running statistics.

        Args:
            trainer: Says precision.
            module: Holds the weights.
            x: The network's input `(C, H, W)`.
            label: Its class, `()`.

        Raises:
            AuditSkipped: If model, image and label do not fit each other.
        """
        self.model_copy.refresh(module)
        self.model_copy.network.eval()
        truth, scale = self._to_image(x[None]), loss_scale(trainer)
        mean, std = self._known
        try:
            with trainer.precision_plugin.train_step_context():
                seen = observe(
                    self.model_copy.network,
                    truth,
                    label,
                    lambda scores, labels: self.loss(scores, labels) * scale,
                    mean=mean,
                    std=std,
                    value_range=self.value_range,
                    grant_labels=self.grant_labels,
                )
        except ValueError as error:
            raise AuditSkipped(str(error)) from error
        gradients = {name: g / scale for name, g in seen.gradients.items()}
        return CapturedSample(replace(seen, gradients=gradients, loss=self.loss), truth, label.reshape(1))

    def whole(self, trainer: Trainer, own: dict[str, Tensor], window: Sequence[MicroBatch]) -> list[CapturedSample]:
        """The step's own gradient as an observation of all the window's images, of all ranks; rank 0 gets it.

        The network keeps the modes of training, except that dropout is off: the attacker does not know the masks.

        Args:
            trainer: Says ranks.
            own: The verified gradients.
            window: The batches.

        Raises:
            AuditSkipped: If the window's batches differ in size, so that no plain average over images was taken.
        """
        parts = [(b.images.cpu(), b.labels.cpu()) for b in window]
        parts = [part for rank in distributed.gather(trainer, parts) for part in rank]
        if len({len(images) for images, _ in parts}) > 1:
            raise AuditSkipped("the window's batches differ in size: the gradient is no plain average over its images")
        if not trainer.is_global_zero:
            return []
        for module in self.model_copy.network.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        device = window[0].images.device
        x, labels = torch.cat([x for x, _ in parts]).to(device), torch.cat([y for _, y in parts]).to(device)
        names = [(self.model_copy.name_in_module(name), name) for name, _ in self.model_copy.network.named_parameters()]
        mean, std = self._known
        seen = Observation(
            network=self.model_copy.network,
            gradients={name: own[outer] for outer, name in names if outer in own},
            input_shape=(x.shape[1], x.shape[2], x.shape[3]),
            batch_size=len(x),
            loss=self.loss,
            labels=labels if self.grant_labels else None,
            mean=mean,
            std=std,
            value_range=self.value_range,
        )
        return [CapturedSample(seen, self._to_image(x), labels)]

    @property
    def _known(self) -> batches.Normalisation:
        assert self._normalisation is not None  # settled with the first batch
        return self._normalisation

    def _to_image(self, x: Tensor) -> Tensor:
        mean, std = self._known
        return x * per_channel(std, x) + per_channel(mean, x)

    def _settle_normalisation(self, trainer: Trainer, x: Tensor) -> None:
        if self._settled:
            return
        self._settled = True
        if self._normalisation is not None:
            source = "given"
        else:
            found = batches.find_normalisation(getattr(trainer, "datamodule", None), trainer.train_dataloader)
            self._normalisation, source = found or (((0.0,), (1.0,)), "none found: inputs are images")
        mean, std = self._normalisation
        self.assumed.append(f"input = (image - {_show(mean)}) / {_show(std)} ({source})")
        image, (low, high) = self._to_image(x.detach()), self.value_range
        least, most, slack = float(image.min()), float(image.max()), 0.05 * (high - low)
        if least < low - slack or most > high + slack:
            self.doubts.append(
                f"images span {least:.2f} … {most:.2f} where {low:g} … {high:g} was expected: "
                "give the normalisation's mean and std, or value_range"
            )


def _tuple(values: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    return as_tuple(default if values is None else list(values) if isinstance(values, Sequence) else values)


def _show(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")" if len(values) > 1 else f"{values[0]:.4g}"
