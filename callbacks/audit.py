"""LeakageAudit: while a network trains, look at what its gradients give away."""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from leakage_audit.attacks.base import Attack
from leakage_audit.callbacks.capture import distributed
from leakage_audit.callbacks.capture.rng_isolation import RngState
from leakage_audit.callbacks.capture.supported_trainers import refuse_unsupported
from leakage_audit.callbacks.evaluation.results import Audit
from leakage_audit.callbacks.find_defence import find_defence
from leakage_audit.callbacks.output import loggers
from leakage_audit.callbacks.output.chart_layout import BY_DEFAULT
from leakage_audit.callbacks.output.write_report import write as write_report
from leakage_audit.callbacks.run_folder import choose_folder
from leakage_audit.callbacks.schedule import Schedule
from leakage_audit.callbacks.session import Session
from leakage_audit.callbacks.settings import AuditOptions, Settings, find_tags, name_attacks
from leakage_audit.readings.extraction import short
from leakage_audit.readings.metric_table import EPSILON, METRICS, VIOLATIONS

_LOOKED_AT = ("audit", "measure")  # what may be planned for a step whose batch is kept


class LeakageAudit(Callback):
    """Attack the gradients of a training step every so often, and log how much of the images comes back.

    Training is not touched: weights, optimiser, random streams, buffers and modes are bit for bit as without it.

    Logs to every logger and to `trainer.callback_metrics`, where EarlyStopping and ModelCheckpoint find them, the
    numbers of docs/metrics.md, such as `audit/c` (the paper's security metric, 0 is worst), `audit/psnr/<attack>` (of
    the image that leaked most), `audit/limit` (what the gradient determines, whoever attacks) and `audit/chance` (PSNR
    of a guess without a gradient); the picture `audit/images`; the text `audit/summary`; and one JSON line an audit in
    `audit.jsonl` (docs/audit.schema.json). Of several audits in one trainer the first has these names; those of another
    begin with what it does otherwise (`audit_step/…`, `audit_optimizer1/…`). Without a logger the files are in
    `leakage_audit/run_N` below the trainer's `default_root_dir`.

    Args:
        every_n_steps: Audit optimiser steps 0, N, 2N, …
        attacks: Names of `leakage_audit.attacks.ATTACKS` (`name:preset` where an attack has presets), or attacks.
        gradient: Which gradient is audited. `sample`: that of single images at the same weights in eval mode, the
            worst case of a client that shares with batch size 1. `step`: the one that the optimiser is about to use,
            averaged over batch, window and ranks, not clipped.
        probe: With `sample`, which images: `fixed` follows the same few through the fit, `batch` takes new ones.
        samples: With `sample`, how many images; shared out over the ranks.
        measure_every_n_steps: Log c(M) and the layers' deficiencies, without attacks, at these steps too: by shapes,
            which costs next to nothing, and on one image's gradient once a filter is dead. Unchanged numbers make no
            line in `audit.jsonl`. None does not measure.
        max_seconds: For a whole audit: reading the step, c(M), all attacks on all images, the limit. What is not
            reached has no result; c(M) is then counted from shapes, and says so. None: no limit.
        max_memory_gb: For all that an audit holds beyond the training's own; likewise. None: no limit but attacks' own.
        limit: Share of `max_seconds` that is kept for the limit, what the gradient determines of the images whoever
            attacks; 0 does not compute it, and then no low reading is more than unknown.
        max_overhead: Audits may take this share of the training time; the schedule thins itself out. None: no limit.
        grant_labels: Whether the attacker is told the labels.
        on_error: An audit that fails is noted (`warn`), or ends the fit (`raise`).
        background: Attack in a process of its own while training goes on; what is left at the end is waited for. Not
            with several processes; the script's own work must stand under `if __name__ == "__main__":`.
        seed: Picks the images within a batch.
        optimizer: Index of the optimiser whose steps are audited, where there are several.
        mean: Of the images' normalisation; None looks for it in datamodule and transforms.
        std: Of the images' normalisation; None looks for it in datamodule and transforms.
        value_range: Lowest and highest value of an image before normalisation.
        forward: How scores are computed, if not by the module's `forward`: a dotted name or `f(module, x)`.
        loss: `loss(scores, labels)` or its dotted name, if neither the module's attribute nor cross entropy.
        unpack: `unpack(batch)` to images and labels or its dotted name, if they are not found in the batch.
        options: Tolerances and limits (`callbacks.settings.AuditOptions`); an attack has its own.
        report: Whether the end of the fit writes `report.html`, `report.json` and `junit.xml` beside `audit.jsonl`.

    Attributes:
        latest: The last audit, for other callbacks.
        recent: The last few, the latest last.
        count: How many there have been in this fit.
        folder: Where this fit's files go; None where none are written.

    Raises:
        ValueError: If an argument is out of its range, or an attack unknown.

    Example::

        trainer = L.Trainer(callbacks=[LeakageAudit(every_n_steps=200)])
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        attacks: Sequence[str | Attack] = ("joint",),
        gradient: Literal["sample", "step"] = "sample",
        probe: Literal["fixed", "batch"] = "fixed",
        samples: int = 2,
        measure_every_n_steps: int | None = None,
        max_seconds: float | None = 60.0,
        max_memory_gb: float | None = 2.0,
        limit: float = 0.25,
        max_overhead: float | None = None,
        grant_labels: bool = False,
        on_error: Literal["warn", "raise"] = "warn",
        background: bool = False,
        seed: int = 0,
        optimizer: int = 0,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        forward: str | Callable[..., Any] | None = None,
        loss: str | Callable[..., Any] | None = None,
        unpack: str | Callable[..., Any] | None = None,
        report: bool = True,
        options: AuditOptions | None = None,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            attacks=name_attacks(attacks),
            gradient=gradient,
            probe=probe,
            samples=samples,
            max_seconds=max_seconds,
            max_memory_gb=max_memory_gb,
            limit=limit,
            grant_labels=grant_labels,
            on_error=on_error,
            background=background,
            seed=seed,
            optimizer=optimizer,
            mean=mean,
            std=std,
            value_range=value_range,
            forward=forward,
            loss=loss,
            unpack=unpack,
            options=options or AuditOptions(),
        )
        self.latest: Audit | None = None
        self.recent: deque[Audit] = deque(maxlen=16)
        self.count = self._steps = 0
        self._audits = Schedule(every_n_steps, max_overhead)
        self._measures = None if measure_every_n_steps is None else Schedule(measure_every_n_steps)
        self._session: Session | None = None
        self._planned: str | None = None
        self._report = report
        self.folder: Path | None = None
        self._earlier: Path | None = None
        self._tag = "audit"
        self._counted: Callable[[], Trainer | None] = lambda: None  # whose steps have been counted

    @property
    @override
    def state_key(self) -> str:
        names = ("gradient", "attacks", "probe", "optimizer", "grant_labels", "samples", "seed")
        chosen = {name: getattr(self.settings, name) for name in names}
        return self._generate_state_key(**chosen | {"attacks": list(self.settings.attacks)})

    def should_audit(self, step: int) -> bool:
        """Whether optimiser step `step`, counted from 0, is audited; override for a schedule of your own."""
        return self._audits.due(step)

    def names(self, module: LightningModule) -> list[str]:
        """The names that audits of this module may log, as far as they are known before the first one."""
        layers = short([name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)])
        logged = [metric for metric in METRICS if metric not in (EPSILON, VIOLATIONS)]  # other callbacks' own
        found = [name for metric in logged for name in metric.names(attack=self.settings.attacks, layer=layers)]
        return [self._tag + name.removeprefix("audit") for name in found]

    def drain(self) -> None:
        """Wait for the audits that are still under way in the background."""
        for audit in self._session.drain() if self._session is not None else ():
            self._note(audit)

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin to audit a fit whose trainer and optimisers are there."""
        self.folder = choose_folder(trainer)
        defence = find_defence(trainer, module, self, self.settings.optimizer)
        self._session = Session(trainer, module, self.settings, self.folder, self._earlier, defence, self._tag)
        self._planned = None
        self._audits.start()
        if self.folder is not None:
            loggers.lay_out_charts(trainer, BY_DEFAULT)

    def begin_batch(self, trainer: Trainer) -> RngState | None:
        """Where a batch is shown only after its forward pass: keep what that pass changes, if it is audited."""
        self._plan(trainer)
        return self._session.begin() if self._session and self._planned in _LOOKED_AT else None

    def keep(self, trainer: Trainer, batch: Any, batch_idx: int, streams: RngState | None = None) -> None:
        """Clone a batch of a step that is audited; `streams` is from `begin_batch`, if that came first."""
        self._plan(trainer)
        if self._session and self._session.busy:
            self._collect()
        if self._session and self._planned in _LOOKED_AT:
            self._session.remember(batch, batch_idx, streams, copied=self._planned == "audit")

    def write_report(self, trainer: Trainer) -> None:
        """Write the report of the fit so far, if this audit is to write one."""
        if self._report:
            write_report(trainer, self.folder)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self._counted() is not trainer:  # before a checkpoint's counts are loaded
            self._steps, self._audits.audits, self.count, self.latest = 0, 0, 0, None
            self.recent.clear()
            self._counted = weakref.ref(trainer)
        audits = audits_of(trainer)
        self._tag = find_tags([audit.settings for audit in audits])[audits.index(self)]

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_unsupported(trainer, pl_module, self.settings)
        self.begin(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.keep(trainer, batch, batch_idx)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if optimizer is trainer.optimizers[self.settings.optimizer]:
            self._take(optimizer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.drain()
        if self._session is not None and trainer.is_global_zero:
            self._session.voice.sum_up(self._session.tally)
        self._close()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write_report(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()
        self.write_report(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "audits": self._audits.audits, "folder": str(self.folder or "")}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._audits.audits = state_dict["steps"], state_dict["audits"]
        self._earlier = Path(state_dict["folder"]) if state_dict["folder"] else None

    def _plan(self, trainer: Trainer) -> None:
        """At the first batch of a window, decide whether its step will be audited."""
        if self._planned is None:
            audit = self.should_audit(self._steps)
            if self._audits.clocked(self._steps):
                audit = distributed.agree(trainer, audit)
            measure = self._measures is not None and self._measures.due(self._steps)
            rest = audit and self._session is not None and not self._session.retries.due()
            self._planned = "rest" if rest else "audit" if audit else "measure" if measure else ""

    def _take(self, optimizer: Optimizer) -> None:
        step, planned = self._steps, self._planned
        self._steps, self._planned = step + 1, None
        if self._session is None:
            return
        if planned == "measure":
            self._note(self._session.measure(step))
        elif planned == "rest":
            self._note(self._session.pass_over(step))
        elif planned == "audit":
            with self._audits.timing():
                self._collect()
                self._note(self._session.audit(optimizer, step))

    def _collect(self) -> None:
        """Hear what the background has found; where too much waits there, wait for it."""
        if self._session is not None:
            for audit in self._session.finished(wait=self._session.crowded):
                self._note(audit)

    def _note(self, audit: Audit | None) -> None:
        if audit is not None:
            self.latest = audit
            self.recent.append(audit)
            self.count += 1

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def audits_of(trainer: Trainer) -> list[LeakageAudit]:
    """The audits among a trainer's callbacks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, LeakageAudit)]  # type: ignore[attr-defined]
