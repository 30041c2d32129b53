"""LeakageGate: a fit that leaks more than it may is warned of, stopped, or failed."""

import logging
import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from leakage_audit.callbacks.audit import audits_of
from leakage_audit.callbacks.capture.supported_trainers import misconfiguration
from leakage_audit.callbacks.evaluation.results import Audit
from leakage_audit.callbacks.judgement import Finding, judge, may_be_limited
from leakage_audit.callbacks.output import loggers, records
from leakage_audit.callbacks.private_training import private_training_of
from leakage_audit.readings.metric_table import EPSILON, VIOLATIONS

log = logging.getLogger("leakage_audit")


class LeakageLimitExceeded(RuntimeError):
    """A fit leaked more than its `LeakageGate(action="fail")` allows; `leakage-audit fit` exits with code 3."""


class LeakageGate(Callback):
    """Hold a fit to limits on what its audits find, and on the privacy budget that `PrivateTraining` spends.

    A limit on `audit/epsilon` is held after every step; with `stop` the fit ends before the step that would exceed it.
    All others need a `LeakageAudit` among the trainer's callbacks.

    The numbers that may be limited grow with leakage (docs/metrics.md), so a value above its limit violates it. A
    limit counts as kept only where the audit says so: an attack that ran out of time has no number, and one that could
    not begin has none either. Such a number is *unknown*, unless what the attack had reached is above the limit already
    (exceeded), or `audit/limit` is below it (kept: nobody gets there). Limiting `audit/limit` itself judges the network
    and not the attack, so it is the limit to prefer.

    The verdict (`passed`, `exceeded`, or `unjudged` where a limited number was never measured or last unknown) goes
    into the loggers as the text `audit/verdict`, into `audit.jsonl` as a line of kind `gate`, and into checkpoints.
    Logs the scalar `audit/violations`, how many numbers were above their limits at an audit; there is no point where
    none was, but some are unknown.

    Args:
        limits: Highest value allowed, by logged name; names may hold `*`.
        patience: Act when a number is above its limit at so many audits in a row.
        action: `warn` says so, `stop` ends the fit after this batch, `fail` raises `LeakageLimitExceeded`; an
            unjudged fit fails as well, since silence is no proof.
        unknown: What an unknown number is: `violate` counts it as above its limit, `warn` says so once and leaves the
            limit unjudged, `ignore` passes over it. None: `violate` where `action` is `fail`, `warn` otherwise.

    Raises:
        ValueError: If there is no limit, or an argument is out of its range.

    Example::

        L.Trainer(callbacks=[LeakageAudit(), LeakageGate({"audit/psnr/*": 25.0}, action="fail")])
    """

    def __init__(
        self,
        limits: dict[str, float],
        patience: int = 1,
        action: Literal["warn", "stop", "fail"] = "warn",
        unknown: Literal["violate", "warn", "ignore"] | None = None,
    ) -> None:
        super().__init__()
        if not limits:
            raise ValueError("limits must name at least one number, such as {'audit/psnr/*': 25.0}")
        for name, limit in limits.items():
            if not isinstance(limit, int | float) or math.isnan(limit):
                raise ValueError(f"the limit of {name!r} must be a number, got {limit!r}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1 (act at the first audit above a limit), got {patience}")
        if action not in ("warn", "stop", "fail"):
            raise ValueError(f"action must be one of warn, stop, fail, got {action!r}")
        if unknown not in ("violate", "warn", "ignore", None):
            raise ValueError(f"unknown must be one of violate, warn, ignore, None, got {unknown!r}")
        self.limits, self.patience, self.action = dict(limits), patience, action
        self.unknown = unknown or ("violate" if action == "fail" else "warn")
        self.verdict = "unjudged"
        self.violations: list[dict[str, Any]] = []
        self._judged: set[str] = set()
        self._doubtful: dict[str, str] = {}  # limits whose number was unknown at the last audit, and why
        self._in_a_row: dict[str, int] = {}
        self._looked_at: dict[int, int] = {}
        self._concluded = False

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(limits=self.limits, patience=self.patience, action=self.action)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._concluded = False
        self._check_names(trainer, pl_module)
        self._looked_at = {id(audit): audit.count for audit in audits_of(trainer)}

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._judge_new(trainer)
        self._judge_budget(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for audit in audits_of(trainer):
            audit.drain()
        self._judge_new(trainer)
        self._conclude(trainer)
        missing = [name for name in self.limits if name not in self._judged or name in self._doubtful]
        if missing and self.action == "fail":
            why = "; ".join(dict.fromkeys(self._doubtful.get(name, "never measured") for name in missing))
            raise LeakageLimitExceeded(f"the limits on {', '.join(missing)} could not be judged: {why}")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._conclude(trainer)
        for audit in audits_of(trainer):
            audit.write_report(
                trainer
            )  # again: an audit that stands before the gate has written it without the verdict

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "violations": self.violations,
            "in_a_row": self._in_a_row,
            "judged": sorted(self._judged),
            "doubtful": self._doubtful,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.verdict, self.violations = state_dict["verdict"], state_dict["violations"]
        self._in_a_row, self._judged = state_dict["in_a_row"], set(state_dict["judged"])
        self._doubtful = state_dict.get("doubtful", {})

    def _check_names(self, trainer: Trainer, module: LightningModule) -> None:
        audits = audits_of(trainer)
        private = private_training_of(trainer)
        others = [pattern for pattern in self.limits if private is None or not fnmatchcase(EPSILON.name, pattern)]
        if not audits and others:
            raise misconfiguration(trainer, "LeakageGate judges what a LeakageAudit finds: add one to the callbacks")
        names = sorted(
            {name for audit in audits for name in audit.names(module)} | ({EPSILON.name} if private else set())
        )
        if EPSILON.name in self.limits and private is None:
            raise misconfiguration(trainer, f"LeakageGate: {EPSILON.name} is logged by PrivateTraining: add one")
        for pattern in self.limits:
            if not any(fnmatchcase(name, pattern) for name in names):
                known = ", ".join(names)
                raise misconfiguration(trainer, f"LeakageGate: nothing named {pattern!r} is logged; there are {known}")
            if not any(fnmatchcase(name, pattern) and may_be_limited(name) for name in names):
                raise misconfiguration(
                    trainer, f"LeakageGate: {pattern!r} does not grow with leakage, see docs/metrics.md"
                )

    def _judge_new(self, trainer: Trainer) -> None:
        """Judge the audits that have come in since last time."""
        for audit in audits_of(trainer):
            new = audit.count - self._looked_at.get(id(audit), 0)
            self._looked_at[id(audit)] = audit.count
            for found in list(audit.recent)[-new:] if new else []:
                self._judge(trainer, found)

    def _judge(self, trainer: Trainer, audit: Audit) -> None:
        if audit.skipped is not None:
            return
        found = [finding for pattern, limit in self.limits.items() for finding in judge(pattern, limit, audit)]
        above = [x for x in found if x.state == "above" or (x.state == "unknown" and self.unknown == "violate")]
        self._note(trainer, found)
        for finding in found:
            if finding not in above:
                self._in_a_row.pop(finding.name, None)
        for x in above:
            self._in_a_row[x.name] = self._in_a_row.get(x.name, 0) + 1
            self.violations.append(x.as_dict(audit.step))
        self._settle()
        unjudged = [x for x in found if x.state == "unknown"] if self.unknown == "warn" else []
        loggers.remember(trainer, {VIOLATIONS.name: float(len(above) + len(unjudged))})  # a monitor sees the worst
        if trainer.is_global_zero and (above or not unjudged):  # a point at 0 would say that all limits were kept
            loggers.log_scalars(trainer, {VIOLATIONS.name: float(len(above))}, audit.step)
        last = [x for x in above if self._in_a_row[x.name] >= self.patience]
        if last:
            self._act(trainer, last, audit)

    def _judge_budget(self, trainer: Trainer) -> None:
        """Hold ε to its limit, after every step: `stop` ends the fit before a step that would exceed it."""
        private = private_training_of(trainer)
        for pattern, limit in self.limits.items():
            if private is None or not fnmatchcase(EPSILON.name, pattern):
                continue
            self._judged.add(pattern)
            audit = Audit(loggers.log_step(trainer), private.steps - 1, {EPSILON.name: private.epsilon})
            (finding,) = judge(pattern, limit, audit)
            if finding.state == "above":
                self._in_a_row[EPSILON.name] = self._in_a_row.get(EPSILON.name, 0) + 1
                self.violations = [x for x in self.violations if x["name"] != EPSILON.name]  # the last says it all
                self.violations.append(finding.as_dict(audit.step))
            self._settle()
            if finding.state == "above" and self._in_a_row[EPSILON.name] == self.patience:
                self._act(trainer, [finding], audit)
            elif finding.state == "kept" and self.action == "stop" and private.epsilon_after(1) > limit:
                if trainer.is_global_zero and not trainer.should_stop:
                    log.warning(
                        "the privacy budget is spent: ε = %.4g, and the next step would exceed %g; the fit stops here",
                        private.epsilon, limit,
                    )  # fmt: skip
                trainer.should_stop = True

    def _note(self, trainer: Trainer, found: list[Finding]) -> None:
        """Keep which limits could be judged, and which were in doubt at this audit."""
        for pattern in {finding.pattern for finding in found}:
            own = [finding for finding in found if finding.pattern == pattern]
            doubts = [finding for finding in own if finding.state == "unknown"]
            if self.unknown == "violate" or len(doubts) < len(own):
                self._judged.add(pattern)
            if not doubts or self.unknown != "warn":
                self._doubtful.pop(pattern, None)
                continue
            if pattern not in self._doubtful and trainer.is_global_zero:
                log.warning("LeakageGate: %s is unknown: %s", doubts[0].name, doubts[0].reason)
            self._doubtful[pattern] = doubts[0].reason

    def _settle(self) -> None:
        if any(count >= self.patience for count in self._in_a_row.values()):
            self.verdict = "exceeded"
        elif self.verdict != "exceeded":
            certain = self._judged == set(self.limits) and not self._doubtful
            self.verdict = "passed" if certain else "unjudged"

    def _act(self, trainer: Trainer, above: list[Finding], audit: Audit) -> None:
        what = ", ".join(map(str, above))
        message = f"leakage limit exceeded at optimiser step {audit.optimizer_step}: {what}"
        if self.patience > 1:
            message += f" ({self.patience} audits in a row)"
        if self.action == "fail":
            raise LeakageLimitExceeded(message)
        if trainer.is_global_zero:
            log.warning("%s%s", message, "; the fit stops here" if self.action == "stop" else "")
        if self.action == "stop":
            trainer.should_stop = True

    def _conclude(self, trainer: Trainer) -> None:
        """Write the verdict down, once a fit."""
        if self._concluded or not trainer.is_global_zero:
            return
        self._concluded = True
        step = loggers.log_step(trainer)
        record = {"kind": "gate", "step": step, "verdict": self.verdict, "action": self.action, "limits": self.limits}
        record |= {"patience": self.patience, "judged": sorted(self._judged), "violations": self.violations}
        record |= {"unknown": self.unknown, "doubtful": self._doubtful}
        try:
            loggers.log_text(trainer, "audit/verdict", self.summary(), step)
            folder = next((audit.folder for audit in audits_of(trainer) if audit.folder is not None), None)
            if folder is not None:
                records.append(Path(folder) / "audit.jsonl", record)
        except Exception as error:  # must not take the place of what the fit ended with
            log.warning("the gate's verdict could not be written: %s: %s", type(error).__name__, error)

    def summary(self) -> str:
        """The verdict as Markdown, with the numbers behind it."""
        lines = [f"**{self.verdict}**", "", "| limited | highest allowed | highest above |", "|---|---|---|"]
        for pattern, limit in self.limits.items():
            above = [v["value"] for v in self.violations if fnmatchcase(v["name"], pattern)]
            state = "never" if pattern in self._judged else "not measured"
            if above:
                state = f"{max(above):.4g}" if math.isfinite(max(above)) else "unknown"
            elif pattern in self._doubtful:
                state = f"unknown: {self._doubtful[pattern]}"
            lines.append(f"| {pattern} | {limit:g} | {state} |")
        return "\n".join(lines)
