"""The audits of one fit: everything that lives from its start to its end and is then let go of."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from rich.progress import track
from torch.optim import Optimizer

from leakage_audit.callbacks.capture import distributed
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.gradient_check import GradientCheck, ReadStep
from leakage_audit.callbacks.capture.input_range import InputRange
from leakage_audit.callbacks.capture.probe import Probe
from leakage_audit.callbacks.capture.rng_isolation import RngState, isolated
from leakage_audit.callbacks.capture.set_aside import set_aside
from leakage_audit.callbacks.capture.step_gradients import MicroBatch
from leakage_audit.callbacks.capture.step_reader import StepReader
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.evaluation.baseline import BaselineImage
from leakage_audit.callbacks.evaluation.evaluate import evaluate_all
from leakage_audit.callbacks.evaluation.results import Audit, Pending, Result
from leakage_audit.callbacks.evaluation.robustness import Robustness
from leakage_audit.callbacks.evaluation.shape_metrics import has_dead_filters, shape_metrics
from leakage_audit.callbacks.jobs import Jobs
from leakage_audit.callbacks.limits_of_audit import budget_of, unread, worker_of
from leakage_audit.callbacks.mismatch import mismatch
from leakage_audit.callbacks.output import console, publish, records
from leakage_audit.callbacks.output.record_head import record_head
from leakage_audit.callbacks.selection import Capture, Selection
from leakage_audit.callbacks.settings import Settings
from leakage_audit.callbacks.tally import Retries, Tally
from leakage_audit.callbacks.voice import Voice
from leakage_audit.readings.evaluation import audit_status, leaked, no_results
from leakage_audit.readings.threat_model import threat_model
from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime

log = logging.getLogger("leakage_audit")


class Session:
    """Audits the steps of one fit.

    Args:
        trainer: Of the fit.
        module: That is trained.
        settings: What to audit, and how.
        folder: Where files go; None writes none.
        probe: Where an earlier run of the same fit left its fixed images.
        defence: What is done to gradients before they are shared.
        tag: What the logged names begin with, where there are several audits.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        settings: Settings,
        folder: Path | None,
        probe: Path | None,
        defence: GradientDefence | None = None,
        tag: str = "audit",
    ) -> None:
        self.trainer, self.module, self.settings, self.folder = trainer, module, settings, folder
        self.reader = StepReader(
            forward=settings.forward,
            loss=settings.loss,
            unpack=settings.unpack,
            inputs=InputRange(settings.mean, settings.std, settings.value_range),
            grant_labels=settings.grant_labels,
            check=settings.options.gradient_check,
        )
        self.tally, self.voice = Tally(), Voice(trainer)
        self._defence, self._tag = defence, tag
        self._guess = BaselineImage()
        self._robustness: Robustness | None = None  # a defence may find its noise after the audit has begun
        followed = Probe(trainer, settings.probe == "fixed", settings.seed, folder, probe, self.voice.once)
        self._selection = Selection(trainer, module, settings, self.reader, followed, defence)
        self._jobs = Jobs(trainer, settings, self._guess, defence)
        self._window: list[MicroBatch] = []
        self._problem: Exception | None = None
        self.retries = Retries()
        self._passing: tuple[Any, int] | None = None
        self._shapes: dict[str, float] = {}
        self._worker = worker_of(settings)

    def begin(self) -> RngState:
        """Keep the module as it is, where a window whose step will be audited begins; returns the random streams."""
        try:
            with isolated():
                if not self._window:
                    self.reader.begin(self.module, self.trainer, Budget(memory_gb=self.settings.max_memory_gb))
        except Exception as error:  # told when the audit is due, on all ranks at once
            self._problem = error
        return RngState.capture()

    def remember(self, batch: Any, index: int = 0, streams: RngState | None = None, copied: bool = True) -> None:
        """Keep a batch of the window whose step is looked at.

        Args:
            batch: Cloned here.
            index: Of the batch.
            streams: What `begin` gave where forward has run since; None if the batch begins here.
            copied: Whether to copy it now; to measure a step its shapes are mostly enough.
        """
        if not copied and streams is None:
            self._passing = batch, index
            return
        streams = streams or self.begin()
        try:
            with isolated():
                self._window.append(self.reader.micro_batch(batch, index, streams))
        except Exception as error:  # as above
            self._problem = error

    def audit(self, optimizer: Optimizer, step: int) -> Audit | None:
        """Attack the step's gradient, score, log, and forget; None while the background is busy with it."""
        return self._take(step, lambda budget: self._attacked(optimizer, budget), "audit")

    def pass_over(self, step: int) -> Audit:
        """Note a step that is not even tried, since steps before it could not be audited."""
        skipped = self.retries.reason
        record = self._record("audit", step, None, skipped)
        return self._record_and_publish(record, Result(), skipped, 0.0, tried=False)

    def measure(self, step: int) -> Audit | None:
        """Log c(M) and the layers' deficiencies: by their shapes, or on one image's gradient if a filter is dead."""
        if self._shapes and not has_dead_filters(self.module):
            self._forget()
            shapes = self._tagged(self._shapes)
            publish.repeat(self.trainer, shapes)
            return Audit(publish.log_step(self.trainer), step, shapes)
        if self._passing is not None:
            self.remember(*self._passing)  # the weights are what they were when the window began
        return self._take(step, self._measured, "measure")

    @property
    def busy(self) -> bool:
        """Whether the background has something to do."""
        return self._worker is not None and len(self._worker) > 0

    @property
    def crowded(self) -> int:
        """For how many audits the next one has to wait."""
        return int(self._worker is not None and self._worker.full)

    def finished(self, wait: int = 0) -> Iterator[Audit]:
        """The audits that the background has ended; waits for so many at least, if there are as many."""
        if self._worker is None:
            return
        for pending, found in self._worker.finished(wait):
            skipped = None
            if isinstance(found, Exception):
                if self.settings.on_error == "raise" and not isinstance(found, AuditSkipped):
                    raise found
                skipped = str(found) if isinstance(found, AuditSkipped) else f"{type(found).__name__}: {found}"
                found = []
            record = pending.record if skipped is None else pending.record | {"skipped": skipped}
            seconds = sum(outcome.result.seconds for evaluation in found for outcome in evaluation.outcomes.values())
            yield self._record_and_publish(record, Result(found, pending.gradient_check), skipped, seconds)

    def drain(self) -> Iterator[Audit]:
        """Wait for what the background still has to do."""
        waiting = range(0 if self._worker is None else len(self._worker))
        for _ in track(waiting, "Finishing audits", disable=not waiting or not self.trainer.is_global_zero):
            yield from self.finished(wait=1)

    def close(self) -> None:
        """Let go of the background process; audits that it has not ended are noted as skipped."""
        for pending in [] if self._worker is None else self._worker.close():
            skipped = "the fit ended before the background did"
            self._record_and_publish(pending.record | {"skipped": skipped}, Result(), skipped, 0.0)

    def _take(self, step: int, work: Callable[[Budget], Result], kind: str) -> Audit | None:
        start, result, skipped = time.perf_counter(), Result(), None
        try:
            given = self.settings.forward, self.settings.loss, self.settings.unpack
            with (
                isolated(),
                set_aside(self.module, *given),
                console.progress(self.trainer, self.settings.options.announced_after) as report,
            ):
                result = work(budget_of(self.trainer, self.settings, report))
        except AuditSkipped as reason:
            skipped = str(reason)
        except OutOfTime:
            skipped = unread(self.trainer, self.settings)
        except OutOfMemory as reason:
            skipped = str(reason)
        except Exception as error:  # the training goes on, whatever the audit met
            if self.settings.on_error == "raise":
                raise
            skipped = f"{type(error).__name__}: {error}"
            log.debug("audit failed", exc_info=True)
        finally:
            self._forget()
        record = self._record(kind, step, result.gradient_check, skipped)
        if result.parcel is not None and self._worker is not None:
            self._worker.submit(Pending(record, result.gradient_check), result.parcel)
            return None
        return self._record_and_publish(record, result, skipped, time.perf_counter() - start)

    def _tagged(self, metrics: dict[str, float]) -> dict[str, float]:
        return {self._tag + name.removeprefix("audit"): value for name, value in metrics.items()}

    def _forget(self) -> None:
        self._window, self._problem, self._passing = [], None, None
        self.reader.forget()

    def _record_and_publish(
        self, record: dict[str, Any], result: Result, skipped: str | None, seconds: float, tried: bool = True
    ) -> Audit:
        """Publish an audit's results at the step that they belong to."""
        step = record["optimizer_step"]
        self.voice.tell(step, self.reader, result.evaluations, skipped)
        attacked = record["kind"] == "audit"
        if attacked:
            self.tally.note(skipped, tried)
        found = records.metrics(result.evaluations, seconds) if result.evaluations else result.numbers
        self._robustness = self._robustness or Robustness(self._defence.mu if self._defence else None)
        self._robustness.add(result.evaluations)
        if attacked and (curve := self._robustness.curve):
            found, record = found | self._robustness.metrics, record | {"robustness": curve}
        metrics = self._tagged(found)
        publish.publish(
            self.trainer, result.evaluations, metrics, record, self.folder, self.voice.once, self.settings.attacks
        )
        words = records.most_severe_by_attack(result.evaluations)
        status = audit_status(result.evaluations) if attacked and skipped is None else None
        counted = no_results(result.evaluations), leaked(result.evaluations)
        audit = Audit(record["step"], step, metrics, skipped, words, status, *counted)
        # A skipped measurement says nothing of what the attacks found before.
        console.show(self.trainer, replace(audit, metrics=found, skipped=skipped if attacked else None))
        return audit

    def _measured(self, budget: Budget) -> Result:
        self._raise_problem()
        if has_dead_filters(self.module):
            return self._looked_at(lambda: self._selection.samples(self._window, 1), budget, attack=False)
        _, channels, height, width = self.reader.pairs(self.trainer, self.module, self._window)[0][0].shape
        network = self.reader.network(self.trainer, self.module)
        self._shapes = shape_metrics(network.eval(), (channels, height, width))
        return Result(numbers=self._shapes)

    def _attacked(self, optimizer: Optimizer, budget: Budget) -> Result:
        distributed.together(self.trainer, self._raise_problem)
        # First of all: Opacus' noise may come from the global streams, which reading the step moves.
        shared = distributed.together(self.trainer, lambda: self._selection.shared(optimizer))
        try:
            read = self.reader.read(self.trainer, self.module, optimizer, self._window, budget)
            self._trust(read)
        except AuditSkipped as reason:
            self.retries.note(str(reason))
            raise
        self.retries.note(None)
        check, own = read.check, read.gradients if self.settings.gradient == "step" else {}
        del read  # single images' audits need the step's gradient no more
        look = partial(self._looked_at, lambda: self._selection.of(shared, own, self._window), budget)
        found = distributed.together(self.trainer, look)
        if found.parcel is not None:
            return replace(found, gradient_check=check)
        parts = distributed.gather(self.trainer, found.evaluations)
        return Result([evaluation for part in parts for evaluation in part], check)

    def _looked_at(self, choose: Callable[[], list[Capture]], budget: Budget, attack: bool = True) -> Result:
        """The evaluations of what is chosen, or a parcel of it for the background."""
        with budget.holding("the module as it was at the step", self.reader.copies.held):
            budget.require_memory("a gradient with its network", self.reader.copies.one_more)
            captures = choose()
            jobs = self._jobs(captures, attack)
            if self._worker is not None and attack:
                return Result(parcel=self._worker.packed(jobs, budget))
            return Result(evaluate_all(jobs, len(captures), budget))

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _trust(self, read: ReadStep) -> None:
        """Go on only with a gradient that is understood; single images' may be of another scale than the step's."""
        check = read.check
        if check.same:
            return
        if self.settings.gradient == "sample" and check.parallel:
            said = f"the step's gradient {check} Single images are audited at the scale of the loss."
            self.voice.once(said, key="scale")
            return
        raise AuditSkipped(mismatch(read, self.trainer.optimizers[self.settings.optimizer]))

    def _record(self, kind: str, step: int, check: GradientCheck | None, skipped: str | None) -> dict[str, Any]:
        model = threat_model(self.settings.attacks.values(), self.module, self.settings.grant_labels)
        about = {"threat_model": model, "assumed": self.reader.assumed, "chance": self._guess.about}
        head = record_head(self.trainer, self.settings, kind, step, about, check, self._defence)
        head |= {} if self._tag == "audit" else {"tag": self._tag}
        return head if skipped is None else head | {"skipped": skipped}
