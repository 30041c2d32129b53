"""Audits in a training loop without a Trainer: plain PyTorch, or Fabric."""

from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from lightning.fabric.loggers import TensorBoardLogger
from torch import nn

from leakage_audit.callbacks.audit import LeakageAudit
from leakage_audit.callbacks.capture.plain_training import PlainTraining
from leakage_audit.callbacks.capture.rng_isolation import RngState
from leakage_audit.callbacks.capture.supported_trainers import refuse_unsupported
from leakage_audit.callbacks.evaluation.results import Audit
from leakage_audit.callbacks.gate import LeakageGate
from leakage_audit.observation import Loss


def watch(
    model: nn.Module,
    optimizer: Any,
    *,
    loss: str | Loss | None = None,
    log_dir: str | Path | None = None,
    logger: Any = None,
    gate: LeakageGate | None = None,
    scaler: Any = None,
    **options: Any,
) -> "Watch":
    """Audit the steps of a training loop that has no Trainer, as `LeakageAudit` audits those of one that has.

    Say `step(batch)` between the backward pass and the optimiser's step. The loop is not touched: weights, optimiser,
    buffers, random streams and modes are bit for bit as without it, and an audit that fails is noted and passed over.

    Args:
        model: As the loop calls it; compiled, distributed (not sharded), or set up by Fabric.
        optimizer: Whose steps are audited; likewise. Not L-BFGS.
        loss: `loss(scores, targets)` with a mean over the batch. None tries the model's attributes and cross entropy.
        log_dir: Where TensorBoard's files, `audit.jsonl` and the report go. None: to the logger's folder, else to a new
            `leakage_audit/run_N` below the working directory.
        logger: A logger of Lightning or Fabric, such as the one that the loop logs with, or a list of them.
        gate: Limits on what may leak: with `stop` it sets `should_stop`, with `fail` it raises in `step` or `close`.
        scaler: The `GradScaler` of a plain loop with float16; Fabric's is found.
        **options: Those of `LeakageAudit`: `every_n_steps`, `attacks`, `gradient`, `limit`, `mean`, `std`, …

    Returns:
        What to call in the loop; also a context manager that closes itself.

    Raises:
        MisconfigurationException: If the gradient of a step could not be read rightly, with the reason.
        ValueError: If an option is out of its range.

    Example::

        with watch(model, optimizer, loss=F.cross_entropy, every_n_steps=100, log_dir="runs/1") as audit:
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                audit.step((images, labels))
                optimizer.step()
    """
    loggers = list(logger) if isinstance(logger, list | tuple) else [] if logger is None else [logger]
    if log_dir is not None:
        loggers.insert(0, TensorBoardLogger(root_dir=log_dir, name="", version=""))
    for each in loggers:
        _ = getattr(each, "experiment", None)  # as a Trainer does: some want their folder to themselves at first
    training = PlainTraining(model, optimizer, loggers, Path(), scaler)
    return Watch(model, training, LeakageAudit(loss=loss, **options), gate)


class Watch:
    """What `watch` returns.

    Args:
        model: As the loop calls it.
        training: The loop, under a Trainer's names.
        audit: Does the work.
        gate: Judges it.

    Attributes:
        audit: The `LeakageAudit`; `audit.latest` is the last result, `audit.folder` where files go.

    Example::

        found = audit.step((images, labels))  # between backward and the optimiser's step
    """

    def __init__(
        self, model: nn.Module, training: PlainTraining, audit: LeakageAudit, gate: LeakageGate | None = None
    ) -> None:
        self.audit, self._gate, self._training = audit, gate, training
        self._model = model
        self._batches, self._state = 0, "new"
        self._streams: RngState | None = None
        self._in_training = False  # the model, when these streams were taken
        training.callbacks = [audit] if gate is None else [audit, gate]
        audit.setup(self._trainer, self._module, "fit")
        refuse_unsupported(self._trainer, self._module, audit.settings)
        if gate is not None:
            gate.on_fit_start(self._trainer, self._module)
        self._hook = model.register_forward_pre_hook(self._before_forward)

    def step(self, batch: Any, *, accumulating: bool = False, epoch: int = 0) -> Audit | None:
        """Audit the step that the optimiser is about to take, if it is one of `every_n_steps`.

        Args:
            batch: Images and targets that the gradient was computed on, in any form that `unpack` understands.
            accumulating: Whether this batch's gradient is only added to, and the optimiser steps at a later one.
            epoch: For the record.

        Returns:
            The audit, if one took place or was skipped just now.

        Raises:
            LeakageLimitExceeded: If a gate with `action="fail"` says so.
        """
        self._begin()
        self._training.current_epoch = epoch
        streams, self._streams = self._streams, None
        before = self.audit.count
        self.audit.keep(self._trainer, self._training.precision_plugin.convert(batch), self._batches, streams)
        self._batches += 1
        if accumulating:
            return None
        self.audit.on_before_optimizer_step(self._trainer, self._module, self._training.optimizers[0])
        self._training.batches_stepped += 1
        if self._gate is not None:
            self._gate.on_train_batch_end(self._trainer)
        return self.audit.latest if self.audit.count > before else None

    def close(self) -> None:
        """Wait for audits in the background, say how many took place and why others did not, write the report.

        Raises:
            LeakageLimitExceeded: If a gate with `action="fail"` could not judge one of its limits.
        """
        self._end(None)

    @property
    def should_stop(self) -> bool:
        """Whether a gate with `action="stop"` asks for the end of the training."""
        return self._training.should_stop

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to keep, so that a resumed loop goes on counting and follows the same images."""
        return {"audit": self.audit.state_dict()} | ({} if self._gate is None else {"gate": self._gate.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another left off; before the first step."""
        self.audit.load_state_dict(state["audit"])
        if self._gate is not None and "gate" in state:
            self._gate.load_state_dict(state["gate"])

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    @property
    def _trainer(self) -> Any:
        return self._training

    @property
    def _module(self) -> Any:
        return self._training.module

    def _begin(self) -> None:
        if self._state == "new":
            self._state = "begun"
            self.audit.begin(self._trainer, self._module)

    def _before_forward(self, model: nn.Module, *args: Any) -> None:
        """Take down the random streams that forward draws from, and the module that it is about to change."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if self._streams is None or (model.training and not self._in_training):
            self._begin()
            self._in_training = model.training
            self._training.precision_plugin.see()
            self._streams = self.audit.begin_batch(self._trainer)

    def _end(self, error: BaseException | None) -> None:
        if self._state == "closed":
            return
        self._state = "closed"
        self._hook.remove()
        try:
            if error is None:
                for callback in self._training.callbacks:
                    callback.on_train_end(self._trainer, self._module)
        except BaseException as failure:  # a gate's last word
            error = failure
            raise
        finally:
            for callback in self._training.callbacks if error is not None else ():
                callback.on_exception(self._trainer, self._module, error)
            if error is None:
                self.audit.on_fit_end(self._trainer, self._module)
