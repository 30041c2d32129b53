"""The audits of one fit: everything that lives from its start to its end and is then let go of."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from rich.progress import track
from torch import Tensor
from torch.optim import Optimizer

from leakage_audit.callbacks.capture import distributed
from leakage_audit.callbacks.capture.captured_sample import CapturedSample
from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.gradient_check import GradientCheck, MicroBatch
from leakage_audit.callbacks.capture.input_range import InputRange
from leakage_audit.callbacks.capture.probe import Probe
from leakage_audit.callbacks.capture.rng_isolation import isolated, kept_generators
from leakage_audit.callbacks.capture.step_reader import ReadStep, StepReader
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.evaluation.background import Worker
from leakage_audit.callbacks.evaluation.baseline import BaselineImage
from leakage_audit.callbacks.evaluation.evaluate import Evaluation, evaluate
from leakage_audit.callbacks.evaluation.results import Audit, Pending, Result
from leakage_audit.callbacks.evaluation.shape_metrics import has_dead_filters, shape_metrics
from leakage_audit.callbacks.output import console, publish, records
from leakage_audit.callbacks.output.record_head import record_head
from leakage_audit.callbacks.settings import Settings
from leakage_audit.callbacks.tally import Tally
from leakage_audit.defences import Shared
from leakage_audit.readings.evaluation import audit_status, no_results

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
        )
        self.tally = Tally()
        self._defence, self._tag = defence, tag
        self._guess = BaselineImage()
        self._probe = Probe(trainer, settings.probe == "fixed", settings.seed, folder, probe, self._warn_once)
        self._window: list[MicroBatch] = []
        self._problem: Exception | None = None
        self._said: set[str] = set()
        self._shapes: dict[str, float] = {}
        self._worker: Worker[Pending] | None = Worker() if settings.background else None

    def remember(self, batch: Any, index: int = 0) -> None:
        """Keep a batch of the window whose step will be audited, and the module as it is at the window's start."""
        try:
            with isolated():
                if not self._window:
                    self.reader.begin(self.module, self.trainer)
                self._window.append(self.reader.micro_batch(batch, index))
        except Exception as error:  # told when the audit is due, on all ranks at once
            self._problem = error

    def audit(self, optimizer: Optimizer, step: int) -> Audit | None:
        """Attack the step's gradient, score, log, and forget; None while the background is busy with it."""
        return self._take(step, lambda: self._attacked(optimizer), "audit")

    def measure(self, step: int) -> Audit | None:
        """Log c(M) and the layers' deficiencies: by their shapes, or on one image's gradient if a filter is dead."""
        if self._shapes and self._problem is None and not has_dead_filters(self.module):
            self._forget()
            shapes = self._tagged(self._shapes)
            publish.repeat(self.trainer, shapes)
            return Audit(publish.log_step(self.trainer), step, shapes)
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

    def say_how_many(self) -> None:
        """At the end of the fit: how many audits took place, how many did not, and mostly why not."""
        if self.tally.done or self.tally.skipped:
            log.log(logging.WARNING if self.tally.skipped else logging.INFO, "leakage audit: %s", self.tally)

    def close(self) -> None:
        """Let go of the background process; audits that it has not ended are noted as skipped."""
        for pending in [] if self._worker is None else self._worker.close():
            skipped = "the fit ended before the background did"
            self._record_and_publish(pending.record | {"skipped": skipped}, Result(), skipped, 0.0)

    def _take(self, step: int, work: Callable[[], Result], kind: str) -> Audit | None:
        start, result, skipped = time.perf_counter(), Result(), None
        try:
            with isolated():
                result = work()
        except AuditSkipped as reason:
            skipped = str(reason)
        except Exception as error:  # the training goes on, whatever the audit met
            if self.settings.on_error == "raise":
                raise
            skipped = f"{type(error).__name__}: {error}"
            log.debug("audit failed", exc_info=True)
        finally:
            self._forget()
        record = self._record(kind, step, result.gradient_check, skipped)
        if result.jobs and self._worker is not None:
            try:
                self._worker.submit(Pending(record, result.gradient_check), result.jobs)
            except AuditSkipped as reason:
                return self._record_and_publish(record | {"skipped": str(reason)}, Result(), str(reason), 0.0)
            return None
        return self._record_and_publish(record, result, skipped, time.perf_counter() - start)

    def _tagged(self, metrics: dict[str, float]) -> dict[str, float]:
        return {self._tag + name.removeprefix("audit"): value for name, value in metrics.items()}

    def _forget(self) -> None:
        self._window, self._problem = [], None
        self.reader.forget()

    def _record_and_publish(self, record: dict[str, Any], result: Result, skipped: str | None, seconds: float) -> Audit:
        """Publish an audit's results at the step that they belong to."""
        step = record["optimizer_step"]
        self._warn_of(step, result.evaluations, skipped)
        if record["kind"] == "audit":
            self.tally.note(skipped)
        found = records.metrics(result.evaluations, seconds) if result.evaluations else result.numbers
        metrics = self._tagged(found)
        publish.publish(self.trainer, result.evaluations, metrics, record, self.folder, self._warn_once)
        words = records.most_severe_by_attack(result.evaluations)
        status = audit_status(result.evaluations) if any(one.outcomes for one in result.evaluations) else None
        audit = Audit(record["step"], step, metrics, skipped, words, status, no_results(result.evaluations))
        console.show(self.trainer, replace(audit, metrics=found))
        return audit

    def _measured(self) -> Result:
        if self._problem is not None:
            raise self._problem
        if has_dead_filters(self.module):
            return Result(self._evaluate(self._capture(1), attack=False))
        _, channels, height, width = self.reader.pairs(self.trainer, self.module, self._window)[0][0].shape
        network = self.reader.network(self.trainer, self.module)
        self._shapes = shape_metrics(network.eval(), (channels, height, width))
        return Result(numbers=self._shapes)

    def _attacked(self, optimizer: Optimizer) -> Result:
        distributed.together(self.trainer, self._raise_problem)
        read = self.reader.read(self.trainer, self.module, optimizer, self._window)
        self._trust(read)
        if self._worker is not None:
            return Result(gradient_check=read.check, jobs=self._jobs(self._chosen(optimizer, read.gradients)))
        mine = distributed.together(self.trainer, lambda: self._evaluate(self._chosen(optimizer, read.gradients)))
        return Result(
            [evaluation for part in distributed.gather(self.trainer, mine) for evaluation in part], read.check
        )

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _trust(self, read: ReadStep) -> None:
        """Go on only with a gradient that is understood; single images' may be of another scale than the step's."""
        check = read.check
        if check.same:
            return
        if self.settings.gradient == "sample" and check.parallel:
            self._warn_once(f"the step's gradient {check} Single images are audited at the scale of the loss.")
            return
        raise AuditSkipped(f"the step's gradient {check}" + (f" ({read.reason})" if read.reason else ""))

    def _chosen(self, optimizer: Optimizer, own: dict[str, Tensor]) -> list[CapturedSample]:
        if self.settings.gradient == "sample":
            return self._capture(distributed.share(self.trainer, self.settings.samples))
        whole = self.reader.whole(self.trainer, self.module, own)
        if self._defence is None:
            return whole
        shared = self._defence.share_step(self.trainer, self.module, optimizer)
        return [self._through(shared, captured) for captured in whole]

    def _capture(self, count: int) -> list[CapturedSample]:
        self._raise_problem()
        batch = self.reader.pairs(self.trainer, self.module, self._window)[0]
        images, labels = self._probe.choose(batch, count, distributed.share(self.trainer, self.settings.samples))
        samples = (self.reader.sample(self.trainer, self.module, x, y) for x, y in zip(images, labels, strict=True))
        world, rank = self.trainer.world_size, self.trainer.global_rank
        # Draw 0 is the step's.
        return [self._defended(captured, 1 + i * world + rank) for i, captured in enumerate(samples)]

    def _defended(self, captured: CapturedSample, draw: int) -> CapturedSample:
        if self._defence is None:
            return captured
        seen = captured.seen
        own = {self.reader.outer(seen.network, name): g for name, g in seen.gradients.items()}
        return self._through(self._defence.share(own, draw), captured)

    def _through(self, shared: Shared, captured: CapturedSample) -> CapturedSample:
        """What is seen of a sample whose gradient went through the defence, by who knows it and who does not."""
        seen = captured.seen
        shared = shared.renamed({self.reader.outer(seen.network, name): name for name in seen.gradients})
        known = None if shared.is_plain else shared.seen_by(seen, knows=True)
        return replace(captured, seen=shared.seen_by(seen, knows=False), known=known)

    def _evaluate(self, samples: list[CapturedSample], attack: bool = True) -> list[Evaluation]:
        with console.progress(self.trainer) as report:
            return [evaluate(*args, **keywords, report=report) for args, keywords in self._jobs(samples, attack)]

    def _jobs(self, samples: list[CapturedSample], attack: bool = True) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The arguments of `evaluate` for each captured sample."""
        settings = self.settings
        with kept_generators(getattr(self.trainer, "datamodule", None), self.trainer.train_dataloader):
            guesses = [self._guess(self.trainer, captured.truth.shape[1:]) for captured in samples]
        common = {"seconds": settings.max_seconds, "strict": settings.on_error == "raise", "limit": settings.limit}
        return [
            (
                (captured.seen, captured.truth, captured.labels, settings.attacks if attack else {}),
                # Only once an audit: the ranks hardly depend on the image.
                common | {"measure": i == 0 and self.trainer.is_global_zero, "guess": guess, "known": captured.known},
            )
            for i, (captured, guess) in enumerate(zip(samples, guesses, strict=True))
        ]

    def _record(self, kind: str, step: int, check: GradientCheck | None, skipped: str | None) -> dict[str, Any]:
        about = {"assumed": self.reader.assumed, "chance": self._guess.about}
        head = record_head(self.trainer, self.settings, kind, step, about, check, self._defence)
        head |= {} if self._tag == "audit" else {"tag": self._tag}
        return head if skipped is None else head | {"skipped": skipped}

    def _warn_of(self, step: int, evaluations: list[Evaluation], skipped: str | None) -> None:
        if self.reader.assumed:
            doubtful = bool(self.reader.doubts) or skipped is not None
            message = "audit reads the module thus: " + "; ".join(self.reader.assumed)
            self._warn_once(message, level=logging.WARNING if doubtful else logging.INFO)
        for doubt in self.reader.doubts:
            self._warn_once(doubt)
        if skipped is not None:
            self._warn_once(f"audit of optimiser step {step} skipped: {skipped}", key=skipped)
        for evaluation in evaluations:
            for name, problem in evaluation.problems.items():
                self._warn_once(f"{name} is not available: {problem}")

    def _warn_once(self, message: str, key: str | None = None, level: int = logging.WARNING) -> None:
        """Say something once, on one rank."""
        if (key or message) not in self._said and self.trainer.is_global_zero:
            log.log(level, message)
        self._said.add(key or message)
