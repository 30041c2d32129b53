"""Reads training steps: the gradient that the optimiser is about to use, and how it comes about, verified."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from leakage_audit.callbacks.capture import batches, distributed
from leakage_audit.callbacks.capture.batch_reader import BatchReader, Unpack, moved
from leakage_audit.callbacks.capture.captured_sample import CapturedSample, one_image, whole_step
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.gradient_check import CheckOptions, ReadStep, compare, compute_type, without_factor
from leakage_audit.callbacks.capture.input_range import InputRange
from leakage_audit.callbacks.capture.listening import Heard, listen
from leakage_audit.callbacks.capture.model_copy import Forward, plain
from leakage_audit.callbacks.capture.module_copy import hooks_left_out
from leakage_audit.callbacks.capture.own_copy import clone
from leakage_audit.callbacks.capture.readings import Reading, common, find_readings, why_unheard
from leakage_audit.callbacks.capture.rng_isolation import RngState, isolated
from leakage_audit.callbacks.capture.step_copies import StepCopies
from leakage_audit.callbacks.capture.step_gradients import (
    MicroBatch,
    loss_scale,
    recompute,
    step_gradients,
    steps_by_itself,
)
from leakage_audit.observation import Loss, is_finite
from leakage_audit.runtime import Budget, OutOfTime

Attempt = tuple[Reading, tuple[str, str]]
FORWARD = 1 / 3  # a pass through the network alone, of one that comes back
_AS_IT_STOOD, _ALL_MOMENTS = ("start", "now"), (("start", "start"), ("now", "now"), ("now", "start"), ("start", "now"))


class StepReader:
    """Finds classifier, loss, targets and normalisation of a LightningModule, and reads its steps.

    Whatever it runs of the user's (forward, loss, training_step, unpack, properties) runs on copies of the module and
    of the batch. A step is understood if its gradient comes out again. What is tried: the readings of `find_readings`,
    with the module as it was at the start of the step (before forward moved buffers and counters) or as it is now
    (after the module's own hooks changed it), and the batch at the same two moments.

    Args:
        forward: See `model_copy.locate`.
        loss: `loss(scores, labels)`, or its dotted name; None listens to training_step, then looks for attributes.
        unpack: See `BatchReader`.
        inputs: Mean, standard deviation and value range.
        grant_labels: Whether the attacker is told the labels.
        check: What rounding can explain of the gradients' difference.
    """

    def __init__(
        self,
        *,
        forward: Forward | None = None,
        loss: str | Loss | None = None,
        unpack: Unpack | None = None,
        inputs: InputRange | None = None,
        grant_labels: bool = False,
        check: CheckOptions | None = None,
    ) -> None:
        self._forward, self._loss, self.grant_labels = forward, loss, grant_labels
        self._check = check or CheckOptions()
        self._batches, self._inputs = BatchReader(unpack), inputs or InputRange()
        self.copies = StepCopies()
        self._candidates: list[Reading] = []
        self._reason = ""  # what training_step was heard to do
        self._settled: Attempt | None = None  # what fitted last
        self._reading: Reading | None = None  # the best of the last step
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._budget = Budget()

    @property
    def assumed(self) -> list[str]:
        """In sentences, what was found."""
        return (self._reading.words if self._reading is not None else []) + self._inputs.assumed

    @property
    def doubts(self) -> list[str]:
        """In sentences, what looks wrong with it."""
        lost = ", ".join(self.copies.dropped)
        said = f"the audit's copy of the module is without {lost}, which cannot be copied"
        return [said] * bool(lost) + self._inputs.doubts

    def begin(self, module: LightningModule, trainer: Trainer, budget: Budget | None = None) -> None:
        """Keep the module's state at the start of a window whose step will be read; see `StepCopies.begin`."""
        self.copies.begin(module, trainer, budget or Budget())

    def micro_batch(self, batch: Any, index: int = 0, streams: RngState | None = None) -> MicroBatch:
        """A batch that is about to be trained on, with the generators' states: those of now, unless given."""
        return MicroBatch(clone(batch), batch, index, streams or RngState.capture())

    def forget(self) -> None:
        """Let go of everything that was kept of a step."""
        self.copies.forget()
        self._pairs = []

    def read(
        self,
        trainer: Trainer,
        module: LightningModule,
        optimizer: Optimizer,
        window: Sequence[MicroBatch],
        budget: Budget | None = None,
    ) -> ReadStep:
        """The step's own gradients, compared with those of the readings until one fits. Every rank must call it.

        Raises:
            AuditSkipped: If the gradients hold nothing (none, not finite, all zero), the batch is not understood, or no
                reading can be computed.
            OutOfTime: If the time was up before a reading fitted.
        """
        self._budget = budget or Budget()
        try:
            return self._read(trainer, module, optimizer, window)
        finally:
            self.copies.end()

    def _read(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, window: Sequence[MicroBatch]
    ) -> ReadStep:
        own = distributed.together(trainer, lambda: self._own(trainer, module, optimizer, window))
        written = any(distributed.gather(trainer, any(moved(batch) for batch in window)))
        moments = _ALL_MOMENTS if written else tuple((when, "start") for when in _AS_IT_STOOD)
        if self._settled is not None:
            again = product([self._settled[0]], sorted(moments, key=lambda moment: moment != self._settled[1]))  # type: ignore[index]
            found, problem = self._first_fit(trainer, module, window, own, again)
            if found is not None and found.check.same:
                return found
            self._settled, self._candidates = None, []  # it fits no more: listen anew
        readings = distributed.together(trainer, lambda: self._readings(trainer, module, window))
        found, problem = self._first_fit(trainer, module, window, own, product(common(trainer, readings), moments))
        if found is not None:
            return found if found.check.same else replace(found, reason=self._reason)
        raise AuditSkipped(self._why_not(problem))

    def sample(self, trainer: Trainer, module: LightningModule, x: Tensor, label: Tensor) -> CapturedSample:
        """The gradient that a client with this one image would share at the weights of the step; see `one_image`."""
        network, loss = self._bound(trainer, module)
        return one_image(trainer, network, loss, x, label, self._inputs, self.grant_labels)

    def whole(self, trainer: Trainer, module: LightningModule, own: dict[str, Tensor]) -> list[CapturedSample]:
        """The gradients of the step that was read last, as an observation of all its images; see `whole_step`."""
        network, loss = self._bound(trainer, module)
        assert self._reading is not None  # `_bound` has seen to it
        classifier = self._reading.classifier
        return whole_step(trainer, network, loss, classifier, own, self._pairs, self._inputs, self.grant_labels)

    def pairs(
        self, trainer: Trainer, module: LightningModule, window: Sequence[MicroBatch]
    ) -> list[tuple[Tensor, Tensor]]:
        """Images and targets of the window's batches, as the last reading has them, else the likeliest.

        Raises:
            AuditSkipped: If the batch is not understood.
        """
        if not self._pairs:
            self._reading = self._reading or self._readings(trainer, module, window)[0]
            self._pairs = [self._batches.pair(self._reading.target, b, "start", self.copies.start) for b in window]
            self._inputs.settle(trainer, self._pairs[0][0])
        return self._pairs

    def network(self, trainer: Trainer, module: LightningModule) -> nn.Module:
        """A copy of the classifier, as far as it is known; `read` or `pairs` come first."""
        return self._bound(trainer, module)[0]

    def outer(self, network: nn.Module, name: str) -> str:
        """What a parameter of a network that `sample` or `whole` gave is called in the LightningModule."""
        return name if self._reading is None else self._reading.classifier.name_in_module(network, name)

    def _own(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, window: Sequence[MicroBatch]
    ) -> dict[str, Tensor]:
        """The step's own gradients, on every rank before anything that a rank might fail at."""
        own = step_gradients(trainer, module, optimizer)
        if not own:
            raise AuditSkipped("the optimiser's parameters have no gradient in this step: no loss went back to them")
        bad = next((name for name, g in own.items() if not is_finite(g)), None)
        if bad is not None:
            raise AuditSkipped(f"the gradient of {bad} holds NaN or infinite values")
        if not any(g.any() for g in own.values()):
            raise AuditSkipped("every gradient is zero: the loss is flat here and nothing leaks")
        for batch in window:
            self._inputs.settle(trainer, self._batches.images(batch.batch, self.copies.start)[0])
        if steps_by_itself(trainer, module) and len(window) != trainer.accumulate_grad_batches:
            # The last window of an epoch is shorter, yet Lightning divides by the full length.
            return {name: g * (trainer.accumulate_grad_batches / len(window)) for name, g in own.items()}
        return own

    def _readings(self, trainer: Trainer, module: LightningModule, window: Sequence[MicroBatch]) -> list[Reading]:
        """What the first batch of the window, and the training step that it goes through, may be read as."""
        if self._candidates:
            return self._candidates
        first, heard = window[0], Heard()
        images, others = self._batches.images(first.batch, self.copies.start)
        tensors = [tensor for _, tensor in others]
        if getattr(module, "automatic_optimization", False) and self._loss is None:  # by hand it reaches for optimisers
            alone = self._budget.work(FORWARD, "verification")  # without the way back
            with isolated(), trainer.precision_plugin.train_step_context(), alone:
                first.streams.restore()
                heard = listen(self.copies.copy(self.copies.start, trainer), clone(first.batch), first.index)
            self._reason = why_unheard(heard, images, tensors) or hooks_left_out(module)
        try:
            model_copy = self.copies.copy(self.copies.start, trainer)
            found = find_readings(model_copy, images, tensors, heard, self._forward, self._loss)
        except ValueError as error:
            raise AuditSkipped(str(error)) from error
        if not found:
            raise AuditSkipped(batches.no_targets(images, others))
        self._candidates = found
        return found

    def _first_fit(
        self,
        trainer: Trainer,
        module: LightningModule,
        window: Sequence[MicroBatch],
        own: dict[str, Tensor],
        attempts: Iterable[Attempt],
    ) -> tuple[ReadStep | None, Exception | None]:
        """The first attempt whose gradient is the step's, else the best; and what the first one failed at."""
        best: ReadStep | None = None
        problem: Exception | None = None
        for reading, moment in attempts:
            try:
                attempt = partial(self._again, trainer, module, window, own, reading, *moment)
                pairs, state, again = distributed.together(trainer, attempt)
            except OutOfTime:  # on every rank at once
                raise
            except Exception as error:  # what cannot be computed is not how the step does it
                problem = problem or error
                continue
            found = self._compared(trainer, module, own, distributed.average(trainer, again), len(window))
            del again
            if best is None or found.check.same or (found.check.parallel and not best.check.parallel):
                best, self._reading, self._pairs = found, reading, pairs
                self.copies.settle(state)
            if found.check.same:
                self._settled = reading, moment
                break
        return best, problem

    def _again(
        self,
        trainer: Trainer,
        module: LightningModule,
        window: Sequence[MicroBatch],
        own: dict[str, Tensor],
        reading: Reading,
        when: str,
        which: str,
    ) -> tuple[list[tuple[Tensor, Tensor]], nn.Module, dict[str, Tensor]]:
        """The window's pairs, the module's state, and the gradient, by one attempt."""
        state = self.copies.at(when, module, trainer)
        network, loss = reading.bind(self.copies.copy(state, trainer))
        pairs = [self._batches.pair(reading.target, batch, which, self.copies.start) for batch in window]
        # The network may write into the images.
        triples = [(x.clone(), y.clone(), batch.streams) for (x, y), batch in zip(pairs, window, strict=True)]
        with warnings.catch_warnings(), self._budget.work(kind="verification"):
            warnings.simplefilter("ignore")  # of losses that broadcast what was not meant for them
            return pairs, state, recompute(trainer, reading.classifier, network, loss, triples, list(own))

    def _compared(
        self, trainer: Trainer, module: LightningModule, own: dict[str, Tensor], again: dict[str, Tensor], length: int
    ) -> ReadStep:
        """By hand one may sum over the window, or divide by another number of batches: a factor that is undone."""
        compute = compute_type(trainer, module)
        weights = {plain(name): parameter.detach() for name, parameter in module.named_parameters()}
        check = compare(own, again, compute, self._check, weights)
        if check.parallel and not check.same and not steps_by_itself(trainer, module):
            own = without_factor(own, check, length, loss_scale(trainer))
            check = compare(own, again, compute, self._check, weights)
        return ReadStep(own, check)

    def _why_not(self, problem: Exception | None) -> str:
        said = str(problem) if isinstance(problem, AuditSkipped) else f"{type(problem).__name__}: {problem}"
        return (
            f"{self._reason or 'the module could not be run on the images of the batch'} ({said}); "
            "name what maps images to class scores by `forward`, or `loss` or `unpack`"
        )

    def _bound(self, trainer: Trainer, module: LightningModule) -> tuple[nn.Module, Loss]:
        """Network and loss on a copy of their own, of the state that fitted the last step."""
        assert self._reading is not None  # `read` or `pairs` come first
        fitted = self.copies.fitted
        return self._reading.bind(self.copies.copy(module if fitted is None else fitted, trainer))
