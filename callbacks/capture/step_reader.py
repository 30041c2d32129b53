"""Reads training steps: the gradient that the optimiser is about to use, and how it comes about, verified."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

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
from leakage_audit.callbacks.capture.input_range import InputRange
from leakage_audit.callbacks.capture.listening import Heard, listen
from leakage_audit.callbacks.capture.loss_lookup import named
from leakage_audit.callbacks.capture.model_copy import Forward
from leakage_audit.callbacks.capture.module_copy import copy_module
from leakage_audit.callbacks.capture.readings import Reading, find_readings
from leakage_audit.callbacks.capture.rng_isolation import RngState, isolated
from leakage_audit.observation import Loss, Observation, observe

Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CapturedSample:
    """An observation with what it is scored against.

    Attributes:
        seen: What the attacker sees.
        truth: The images `(B, C, H, W)` in image space; for the scores.
        labels: Their targets: classes `(B,)`, or rows of several or soft labels `(B, classes)`.
    """

    seen: Observation
    truth: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ReadStep:
    """A step whose gradient has been read.

    Attributes:
        gradients: The step's own, as an average over the window.
        check: How they compare with the recomputed ones.
        reason: In words, what training_step seems to do where they differ; empty if nothing is known.
    """

    gradients: dict[str, Tensor]
    check: GradientCheck
    reason: str = ""


class StepReader:
    """Finds classifier, loss, targets and normalisation of a LightningModule, and reads its steps.

    Whatever it runs of the user's (forward, loss, training_step, unpack, properties) runs on copies of the module and
    of the batch. A step is understood if its gradient comes out again; candidates are the states of the module at the
    start of the step (what forward moves has not moved yet) and at its end (what the module's own hooks changed before
    forward has changed), the batch at the same two moments, and the readings of `find_readings`.

    Args:
        forward: See `model_copy.locate`.
        loss: `loss(scores, labels)`, or its dotted name; None listens to training_step, then looks for attributes.
        unpack: `unpack(batch)` to images and labels, or its dotted name; None looks for the tensors that fit.
        input_range: Mean, standard deviation and value range.
        grant_labels: Whether the attacker is told the labels.

    Attributes:
        assumed: In sentences, what was found.
        doubts: In sentences, what looks wrong with it.
    """

    def __init__(
        self,
        *,
        forward: Forward | None = None,
        loss: str | Loss | None = None,
        unpack: str | Callable[[Any], tuple[Tensor, Tensor]] | None = None,
        input_range: InputRange | None = None,
        grant_labels: bool = False,
    ) -> None:
        self._forward, self._loss, self._unpack = forward, loss, unpack
        self._input = input_range or InputRange()
        self.grant_labels = grant_labels
        self._dropped: list[str] = []
        self._settled: tuple[Reading, str, str] | None = None
        self._heard: Heard | None = None
        self._reading: Reading | None = None  # of the last step read
        self._at: nn.Module | None = None  # the module's state that fitted it, on which nothing has run
        self._start: nn.Module | None = None
        self._pairs: Pairs = []

    @property
    def assumed(self) -> list[str]:
        """What was found, in sentences."""
        words = [] if self._reading is None else self._reading.words
        return words + self._input.assumed

    @property
    def doubts(self) -> list[str]:
        """What looks wrong, in sentences."""
        lost = ", ".join(dict.fromkeys(self._dropped))
        return [
            *([f"the audit's copy of the module lacks {lost}: it cannot be copied"] if lost else []),
            *self._input.doubts,
        ]

    def begin(self, module: LightningModule, trainer: Trainer) -> None:
        """Keep the module's state at the start of a window whose step will be read."""
        self._start = self._copy(module, trainer)

    def forget(self) -> None:
        """Let go of everything that was kept of a step."""
        self._start = self._at = None
        self._pairs = []

    def micro_batch(self, batch: Any, index: int = 0) -> MicroBatch:
        """A batch that is about to be trained on, with the generators' states."""
        return MicroBatch(_clone(batch), batch, index, RngState.capture())

    def read(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, window: Sequence[MicroBatch]
    ) -> ReadStep:
        """The step's own gradients, compared with those that the likeliest reading gives. Every rank must call it.

        The first reading that fits is kept for the following steps.

        Raises:
            AuditSkipped: If the gradients hold nothing (none, not finite, all zero), the batch is not understood, or no
                reading can be computed.
        """
        own, readings = distributed.together(trainer, lambda: self._prepare(trainer, module, optimizer, window))
        readings = _common(trainer, readings)
        best: ReadStep | None = None
        problem: Exception | None = None
        for reading, when, which in self._attempts(readings, self._moments(trainer, window)):
            try:
                pairs, state, again = distributed.together(
                    trainer, lambda r=reading, m=when, b=which: self._again(trainer, module, window, r, m, b, own)
                )
            except Exception as error:  # a reading that cannot be computed is not the right one
                problem = problem or error
                continue
            found = self._compared(trainer, module, own, distributed.average(trainer, again), len(window))
            better = best is None or (found.check.parallel and not best.check.parallel) or found.check.same
            if better:
                best, self._reading, self._at, self._pairs = found, reading, state, pairs
            if found.check.same:
                self._settled = reading, when, which
                return found
        if best is not None:
            return replace(best, reason="" if self._heard is None else self._heard.reason())
        raise AuditSkipped(self._why_not(problem, window))

    def sample(self, trainer: Trainer, module: LightningModule, x: Tensor, label: Tensor) -> CapturedSample:
        """The gradient that a client with this one image would share at the weights of the step.

        The network is in eval mode: no dropout, batch normalisation by its running statistics.

        Args:
            trainer: Says precision.
            module: Holds the weights, if no step has been read yet.
            x: The network's input `(C, H, W)`.
            label: Its target: a class `()`, or a row.

        Raises:
            AuditSkipped: If model, image and label do not fit each other.
        """
        network, loss = self._bound(trainer, module)
        network.eval()
        truth, scale = self._input.to_image(x[None]), loss_scale(trainer)
        try:
            with trainer.precision_plugin.train_step_context():
                seen = observe(
                    network,
                    truth,
                    label[None] if label.is_floating_point() else label,
                    lambda scores, labels: loss(scores, labels) * scale,
                    mean=self._input.mean,
                    std=self._input.std,
                    value_range=self._input.value_range,
                    grant_labels=self.grant_labels,
                )
        except ValueError as error:
            raise AuditSkipped(str(error)) from error
        gradients = {name: g / scale for name, g in seen.gradients.items()}
        return CapturedSample(replace(seen, gradients=gradients, loss=loss), truth, label[None])

    def whole(self, trainer: Trainer, module: LightningModule, own: dict[str, Tensor]) -> list[CapturedSample]:
        """The step's own gradient as an observation of all the window's images, of all ranks; rank 0 gets it.

        The network keeps the modes of training, except that dropout is off: the attacker does not know the masks.

        Args:
            trainer: Says ranks.
            module: That is trained.
            own: The verified gradients of the step that was read last.

        Raises:
            AuditSkipped: If the window's batches differ in size, so that no plain average over images was taken.
        """
        device = self._pairs[0][0].device
        mine = [(images.cpu(), labels.cpu()) for images, labels in self._pairs]
        parts = [part for rank in distributed.gather(trainer, mine) for part in rank]
        if len({len(images) for images, _ in parts}) > 1:
            raise AuditSkipped("the window's batches differ in size: the gradient is no plain average over its images")
        if not trainer.is_global_zero:
            return []
        network, loss = self._bound(trainer, module)
        for part in network.modules():
            if isinstance(part, _DropoutNd):
                part.eval()
        x, labels = torch.cat([x for x, _ in parts]).to(device), torch.cat([y for _, y in parts]).to(device)
        assert self._reading is not None  # a step has been read
        classifier = self._reading.classifier
        names = [(classifier.name_in_module(network, name), name) for name, _ in network.named_parameters()]
        seen = Observation(
            network=network,
            gradients={name: own[outer] for outer, name in names if outer in own},
            input_shape=(x.shape[1], x.shape[2], x.shape[3]),
            batch_size=len(x),
            loss=loss,
            labels=labels if self.grant_labels else None,
            class_targets=not labels.is_floating_point(),
            mean=self._input.mean,
            std=self._input.std,
            value_range=self._input.value_range,
        )
        return [CapturedSample(seen, self._input.to_image(x), labels)]

    def pairs(self, trainer: Trainer, module: LightningModule, window: Sequence[MicroBatch]) -> Pairs:
        """Images and targets of the window's batches, as the last reading has them, else as they look.

        Raises:
            AuditSkipped: If the batch is not understood.
        """
        if not self._pairs:
            if self._reading is None:
                self._reading = self._readings(trainer, module, window)[0]
            self._pairs = [self._pair(self._reading, batch, "start") for batch in window]
        return self._pairs

    def network(self, trainer: Trainer, module: LightningModule) -> nn.Module:
        """A copy of the classifier at the weights of now, as far as it is known; `pairs` must have been asked."""
        return self._bound(trainer, module)[0]

    def _prepare(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, window: Sequence[MicroBatch]
    ) -> tuple[dict[str, Tensor], list[Reading]]:
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
        for batch in window:
            self._input.settle(trainer, self._images(batch.batch)[0])
        return own, [self._settled[0]] if self._settled else self._readings(trainer, module, window)

    def _readings(self, trainer: Trainer, module: LightningModule, window: Sequence[MicroBatch]) -> list[Reading]:
        """What the first batch of the window, and the training step that it goes through, may be read as."""
        first, start = window[0], self._start
        if start is None:
            start = self._copy(module, trainer)
        images, others = self._images(first.batch)
        self._input.settle(trainer, images)
        if self._heard is None:
            self._heard = Heard()
            if module.automatic_optimization and self._loss is None:
                with isolated():
                    first.streams.restore()
                    with trainer.precision_plugin.train_step_context():
                        self._heard = listen(self._copy(start, trainer), _clone(first.batch), first.index)
        heard, tensors = self._heard, [tensor for _, tensor in others]
        try:
            found = find_readings(self._copy(start, trainer), images, tensors, heard, self._forward, self._loss)
        except ValueError as error:
            raise AuditSkipped(str(error)) from error
        if not found:
            raise AuditSkipped(batches.no_targets(images, others))
        self._heard = replace(heard, parts=[])  # their outputs hold graphs
        return found

    def _attempts(self, readings: list[Reading], moments: list[tuple[str, str]]) -> Iterator[tuple[Reading, str, str]]:
        """Readings, states and batches to try, what fitted last time first."""
        if self._settled is not None:
            yield self._settled
        for reading, (when, which) in product(readings, moments):
            if (reading, when, which) != self._settled:
                yield reading, when, which

    def _moments(self, trainer: Trainer, window: Sequence[MicroBatch]) -> list[tuple[str, str]]:
        """When module and batch are taken: at the start of the step or now."""
        moved = any(not _equal(batch.batch, batch.original) for batch in window)
        if any(distributed.gather(trainer, moved)):
            return [("start", "start"), ("now", "now"), ("now", "start"), ("start", "now")]
        return [("start", "start"), ("now", "start")]

    def _again(
        self,
        trainer: Trainer,
        module: LightningModule,
        window: Sequence[MicroBatch],
        reading: Reading,
        when: str,
        which: str,
        own: dict[str, Tensor],
    ) -> tuple[Pairs, nn.Module, dict[str, Tensor]]:
        """The window's pairs, the module's state, and the gradient by one attempt."""
        state = self._start if when == "start" and self._start is not None else self._copy(module, trainer)
        network, loss = reading.bind(self._copy(state, trainer))
        pairs = [self._pair(reading, batch, which) for batch in window]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of losses that broadcast what was not meant for them
            streams = [(x.clone(), y.clone(), batch.streams) for (x, y), batch in zip(pairs, window, strict=True)]
            return pairs, state, recompute(trainer, reading.classifier, network, loss, streams, list(own))

    def _compared(
        self, trainer: Trainer, module: LightningModule, own: dict[str, Tensor], again: dict[str, Tensor], length: int
    ) -> ReadStep:
        """By hand one may sum over the window, or divide by a number of batches that the last window falls short of.

        Such a factor is undone.
        """
        compute = compute_type(trainer, module)
        check = compare(own, again, compute)
        if check.parallel and not check.same and not module.automatic_optimization and length > 1:
            divided_by = length / check.scale
            if abs(divided_by - round(divided_by)) < check.tolerance * divided_by:
                own = {name: g / check.scale for name, g in own.items()}
                check = compare(own, again, compute)
        return ReadStep(own, check)

    def _why_not(self, problem: Exception | None, window: Sequence[MicroBatch]) -> str:
        shape = tuple(self._images(window[0].batch)[0].shape)
        reason = self._heard.reason() if self._heard is not None else ""
        said = str(problem) if isinstance(problem, AuditSkipped) else f"{type(problem).__name__}: {problem}"
        return (
            f"{reason or f'the module could not be run on images {shape}'} ({said}); "
            "name what maps images to class scores by `forward`, or `loss` or `unpack`"
        )

    def _copy(self, module: nn.Module, trainer: Trainer) -> nn.Module:
        try:
            made, dropped = copy_module(module, trainer)
        except Exception as error:  # deepcopy lets through whatever a user's attribute raises
            raise AuditSkipped(
                f"{type(module).__name__} cannot be copied for the audit ({type(error).__name__}: {error}); give the "
                "class of what cannot be copied a __deepcopy__"
            ) from error
        self._dropped += [name for name in dropped if name not in self._dropped]
        return made

    def _bound(self, trainer: Trainer, module: LightningModule) -> tuple[nn.Module, Loss]:
        """Network and loss on a copy of their own, of the state that fitted the last step."""
        assert self._reading is not None  # `read` or `pairs` come first
        return self._reading.bind(self._copy(self._at if self._at is not None else module, trainer))

    def _images(self, batch: Any) -> tuple[Tensor, list[tuple[str, Tensor]]]:
        """Images and what else there is one of an image, on memory of their own."""
        try:
            if self._unpack is None:
                images, others = batches.unpack(_clone(batch))
            else:
                assert self._start is not None or not isinstance(self._unpack, str)  # methods need a copy
                images, labels = named(self._start, self._unpack)(_clone(batch))  # type: ignore[arg-type]
                others = [("labels", labels)]
        except Exception as error:  # a user's unpack may raise anything
            raise AuditSkipped(str(error)) from error
        return images.detach().clone(), [(name, tensor.detach().clone()) for name, tensor in others]

    def _pair(self, reading: Reading, batch: MicroBatch, which: str) -> tuple[Tensor, Tensor]:
        images, others = self._images(batch.batch if which == "start" else batch.original)
        try:
            return images, reading.target.read([tensor for _, tensor in others])
        except ValueError as error:
            raise AuditSkipped(str(error)) from error


def _clone(batch: Any) -> Any:
    return tree_map(lambda part: part.detach().clone() if isinstance(part, Tensor) else part, batch)


def _equal(one: Any, other: Any) -> bool:
    """Whether the tensors of two batches hold the same."""
    pairs = zip(batches.tensors(one), batches.tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _common(trainer: Trainer, readings: list[Reading]) -> list[Reading]:
    """The readings that every rank has found, in rank 0's order: all of them must try the same ones."""
    if trainer.world_size == 1:
        return readings
    key = [(*reading.words, reading.target, reading.plain_output) for reading in readings]
    everywhere = distributed.gather(trainer, key)
    chosen = [k for k in everywhere[0] if all(k in other for other in everywhere)]
    return [readings[key.index(k)] for k in chosen]
