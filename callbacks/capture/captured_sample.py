"""What an audit takes from a step: the gradient of one image alone, or the step's own of all its images."""

from dataclasses import dataclass, replace

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from leakage_audit.callbacks.capture import distributed
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.input_range import InputRange
from leakage_audit.callbacks.capture.model_copy import Classifier
from leakage_audit.callbacks.capture.step_gradients import loss_scale
from leakage_audit.observation import Loss, Observation, observe_with


@dataclass(frozen=True)
class CapturedSample:
    """An observation with what it is scored against.

    Attributes:
        seen: What the attacker sees.
        truth: The images `(B, C, H, W)` in image space; for the scores.
        labels: Their targets: classes `(B,)`, or rows of several or soft labels `(B, classes)`.
        known: What an attacker sees who knows the defence that the gradient went through; None where there was none.
    """

    seen: Observation
    truth: Tensor
    labels: Tensor
    known: Observation | None = None


def one_image(
    trainer: Trainer, network: nn.Module, loss: Loss, x: Tensor, label: Tensor, inputs: InputRange, grant_labels: bool
) -> CapturedSample:
    """The gradient that a client with this one image would share.

    The network is in eval mode: no dropout, batch normalisation by its running statistics.

    Args:
        trainer: Says precision.
        network: Of a copy made for this.
        loss: `loss(scores, labels)`, of the same copy.
        x: The network's input `(C, H, W)`.
        label: Its target: a class `()`, or a row.
        inputs: Maps inputs to images.
        grant_labels: Whether the attacker is told the label.

    Raises:
        AuditSkipped: If model, image and label do not fit each other.
    """
    network.eval()
    truth, scale = inputs.to_image(x[None]), loss_scale(trainer)
    try:
        with trainer.precision_plugin.train_step_context():
            seen = observe_with(
                network,
                truth,
                label[None] if label.is_floating_point() else label,
                lambda scores, labels: loss(scores, labels) * scale,
                mean=inputs.mean,
                std=inputs.std,
                value_range=inputs.value_range,
                grant_labels=grant_labels,
            )
    except ValueError as error:
        raise AuditSkipped(f"{error}; name what maps images to class scores by `forward`") from error
    gradients = seen.gradients if scale == 1.0 else {name: g / scale for name, g in seen.gradients.items()}
    return CapturedSample(replace(seen, gradients=gradients, loss=loss), truth, label[None])


def whole_step(
    trainer: Trainer,
    network: nn.Module,
    loss: Loss,
    classifier: Classifier,
    own: dict[str, Tensor],
    window: list[tuple[Tensor, Tensor]],
    inputs: InputRange,
    grant_labels: bool,
) -> list[CapturedSample]:
    """The step's own gradient as an observation of all the window's images, of all ranks; rank 0 gets it.

    The network keeps the modes of training, except that dropout is off: the attacker does not know the masks.

    Args:
        trainer: Says ranks.
        network: Of a copy made for this.
        loss: `loss(scores, labels)`, of the same copy.
        classifier: Says what the network's parameters are called in the LightningModule.
        own: The step's verified gradients.
        window: Images and targets of each batch.
        inputs: Maps inputs to images.
        grant_labels: Whether the attacker is told the labels.

    Raises:
        AuditSkipped: If the window's batches differ in size, so that no plain average over images was taken.
    """
    device = window[0][0].device
    gathered = distributed.gather(trainer, [(images.cpu(), labels.cpu()) for images, labels in window])
    parts = [part for rank in gathered for part in rank]
    if len({len(images) for images, _ in parts}) > 1:
        raise AuditSkipped("the window's batches differ in size: the gradient is no plain average over its images")
    if not trainer.is_global_zero:
        return []
    for part in network.modules():
        if isinstance(part, _DropoutNd):
            part.eval()
    x, labels = torch.cat([x for x, _ in parts]).to(device), torch.cat([y for _, y in parts]).to(device)
    names = [(classifier.name_in_module(network, name), name) for name, _ in network.named_parameters()]
    seen = Observation(
        network=network,
        gradients={name: own[outer] for outer, name in names if outer in own},
        input_shape=(x.shape[1], x.shape[2], x.shape[3]),
        batch_size=len(x),
        loss=loss,
        labels=labels if grant_labels else None,
        class_targets=not labels.is_floating_point(),
        mean=inputs.mean,
        std=inputs.std,
        value_range=inputs.value_range,
    )
    return [CapturedSample(seen, inputs.to_image(x), labels)]
