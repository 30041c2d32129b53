"""Ways to understand a training step: which part gives the scores, which loss takes them, with which targets.

None is believed for how plausible it looks; the step's own gradient decides (see `step_reader`).
"""

from dataclasses import dataclass

from lightning import Trainer
from torch import Tensor, nn

from leakage_audit.callbacks.capture import distributed
from leakage_audit.callbacks.capture.batches import Target, find_targets
from leakage_audit.callbacks.capture.listening import Heard, heard_classifiers
from leakage_audit.callbacks.capture.loss_lookup import USUAL_LOSSES, LossSource, ShapedLoss, find_losses, heard_loss
from leakage_audit.callbacks.capture.model_copy import Classifier, Forward, locate
from leakage_audit.observation import Loss


@dataclass(frozen=True)
class Reading:
    """One way to understand a training step: the gradient of `loss(network(images), targets)`.

    Attributes:
        classifier: Where the scores come from.
        loss: What takes them.
        target: What is the target in a batch.
        plain_output: Whether the classifier returns one tensor of scores `(B, classes)`.
    """

    classifier: Classifier
    loss: LossSource
    target: Target
    plain_output: bool = True

    def bind(self, model_copy: nn.Module) -> tuple[nn.Module, Loss]:
        """Network and loss of a copy made by `copy_module`."""
        return self.classifier.network(model_copy, self.plain_output), self.loss.bind(model_copy)

    @property
    def words(self) -> list[str]:
        """What is assumed, for the record."""
        return [self.classifier.words, self.loss.words]


def find_readings(
    model_copy: nn.Module,
    images: Tensor,
    tensors: list[Tensor],
    heard: Heard,
    forward: Forward | None,
    loss: str | Loss | None,
) -> list[Reading]:
    """The readings to try, the likeliest first.

    Args:
        model_copy: Of the module; its attributes are read.
        images: `(B, C, H, W)`, those that the step was heard with.
        tensors: What else the batch holds for each image; the same.
        heard: The step, if it could be listened to.
        forward: Given by the user; see `locate`.
        loss: Given by the user.

    Raises:
        ValueError: If the classifier is not found, or a dotted name leads nowhere.
    """
    targets = find_targets(tensors) or ([Target(0, "value")] if loss is not None and tensors else [])
    losses = find_losses(model_copy, loss)
    problem: ValueError | None = None
    try:
        classifiers = [locate(model_copy, forward)]
    except ValueError as error:
        classifiers, problem = [], error
    found: list[Reading] = []
    if len(heard.losses) == 1 and isinstance(heard.losses[0].target, Tensor):
        call = heard.losses[0]
        places = classifiers if forward is not None else list(heard_classifiers(heard, images))[:3]
        sources = losses if loss is not None else [heard_loss(call)]
        matching = [
            t for t in targets if loss is not None or _is_target(t, sources[0], tensors, call.scores, call.target)
        ]
        found += [
            Reading(
                place,
                source,
                target,
                plain_output=not place.pick and call.scores.ndim == 2 and _same_form(heard, place),
            )
            for place in places
            for source in sources
            for target in matching[:2]
        ]
    if problem is not None and not found:
        raise problem
    usual = losses if loss is not None else [*losses, *USUAL_LOSSES]
    found += [
        Reading(place, source, target, plain)
        for place in classifiers
        for target in targets[:2]
        for plain in (True, False)
        for source in usual
        if plain or not place.call
    ]
    return _distinct(found)


def why_unheard(heard: Heard, images: Tensor, tensors: list[Tensor]) -> str:
    """What speaks against a classification of the batch's images in what was heard; empty if nothing does."""
    if heard.reason() or len(heard.losses) != 1:
        return heard.reason()
    call = heard.losses[0]
    if len(call.scores) != len(images):
        found = f"{tuple(call.scores.shape)} for {len(images)} images"
        return (
            f"training_step's {call.name} takes scores of shape {found}: self-supervised, or several views of an image"
        )
    loss = heard_loss(call)
    if not any(_is_target(target, loss, tensors, call.scores, call.target) for target in find_targets(tensors)):
        return f"the targets of training_step's {call.name} are not in the batch: self-supervised, or mixed in the step"
    if not any(True for _ in heard_classifiers(heard, images)):
        return (
            f"no part maps the batch's images to what {call.name} takes: images or scores are changed in training_step"
        )
    return ""


def _distinct(readings: list[Reading]) -> list[Reading]:
    kept: list[Reading] = []
    for reading in readings:
        if reading not in kept:
            kept.append(reading)
    return kept


def _same_form(heard: Heard, place: Classifier) -> bool:
    """Whether the part's output is the very tensor of scores, not the same numbers in another shape."""
    outputs = [call.output for call in heard.parts if call.path == place.path]
    return any(isinstance(output, Tensor) and output.ndim == 2 for output in outputs)


def _is_target(target: Target, source: LossSource, tensors: list[Tensor], scores: Tensor, heard: Tensor) -> bool:
    """Whether this is what the loss was heard to be given."""
    assert isinstance(source.loss, ShapedLoss)
    try:
        shaped = source.loss.shaped(target.read(tensors), scores)
    except (RuntimeError, ValueError, IndexError):
        return False
    return shaped.shape == heard.shape and bool((shaped == heard).all())


def common(trainer: Trainer, readings: list[Reading]) -> list[Reading]:
    """The readings that every rank has found, in rank 0's order: all of them must try the same ones."""
    if trainer.world_size == 1:
        return readings
    keys = [(*reading.words, reading.target, reading.plain_output) for reading in readings]
    everywhere = distributed.gather(trainer, keys)
    return [readings[keys.index(key)] for key in everywhere[0] if all(key in other for other in everywhere)]
