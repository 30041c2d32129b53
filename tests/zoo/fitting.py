"""Train one specimen, with or without an audit, and take everything down that an audit might have changed."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.callbacks import LeakageAudit
from zoo.data import BATCH
from zoo.fingerprint import draw, portrait


class Keeps(Attack):
    """Guesses mid-grey and keeps what it saw."""

    name: ClassVar[str] = "keeps"

    def __init__(self) -> None:
        self.seen = []

    def reconstruct(self, seen, budget):
        self.seen.append(seen)
        grey = torch.full((seen.batch_size, *seen.input_shape), 0.5, dtype=seen.dtype)
        return Found(seen.to_input(grey), True, "guessed", 0.0)


class Notes(Callback):
    """Takes down the batches and the gradients that the training uses; stands after the audit in the list."""

    def __init__(self, optimizer):
        self.optimizer, self.batches, self.gradients = optimizer, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(portrait(batch))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(portrait(batch))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if optimizer is trainer.optimizers[self.optimizer]:
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            found = [p.grad for p in pl_module.parameters() if id(p) in mine and p.grad is not None]
            self.gradients.append([g.to_dense().clone() for g in found])


class Listens(logging.Handler):
    def __init__(self):
        super().__init__()
        self.heard = []

    def emit(self, record):
        self.heard.append((record.levelno, record.getMessage()))


@dataclass
class Fit:
    """What is left of a fit.

    Attributes:
        fingerprint: Of everything that an audit must leave alone.
        gradients: The optimiser's, one list a step.
        seen: The observations that the attack was given, one list an audit that took place.
        records: The lines of `audit.jsonl`.
        warnings: What the audit said at WARNING or above.
    """

    fingerprint: dict[str, Any]
    gradients: list[list[torch.Tensor]]
    seen: list[list[Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def fit(case, folder, audited=True, **settings):
    """Train a case for a few steps; each of them is audited.

    Args:
        case: Which.
        folder: Where files go.
        audited: Whether a LeakageAudit is attached.
        settings: Further arguments of LeakageAudit.
    """
    L.seed_everything(1, verbose=False)
    module, data = case.build()
    attack, listens = Keeps(), Listens()
    chosen = {"every_n_steps": 1, "probe": "batch", "samples": BATCH, "report": False} | dict(case.audit) | settings
    audit = LeakageAudit(attacks=[attack, "rgap"] if case.chain else [attack], limit=0, **chosen)
    notes = Notes(chosen.get("optimizer", 0))
    trainer = _trainer_class(module)(
        accelerator="cpu",
        devices=1,
        callbacks=[audit, notes] if audited else [notes],
        default_root_dir=folder,
        **({"max_steps": 3, "log_every_n_steps": 1} | _QUIET | dict(case.trainer)),
    )
    logger = logging.getLogger("leakage_audit")
    logger.addHandler(listens)
    try:
        trainer.fit(module, data)
    finally:
        logger.removeHandler(listens)
    lines = [line for path in folder.rglob("audit.jsonl") for line in path.read_text().splitlines()]
    each = 1 if audit.settings.gradient == "step" else chosen["samples"]
    return Fit(
        fingerprint=_fingerprint(trainer, module, data, notes),
        gradients=notes.gradients,
        seen=[attack.seen[i : i + each] for i in range(0, len(attack.seen), each)],
        records=[json.loads(line) for line in lines],
        warnings=[message for level, message in listens.heard if level >= logging.WARNING],
    )


_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def _trainer_class(module):
    """Lightning is installed under two names; a module belongs to the trainer of its own package."""
    for base in type(module).__mro__:
        if base.__module__.startswith("pytorch_lightning."):
            import pytorch_lightning as pl  # only some environments have it

            return pl.Trainer
    return L.Trainer


def _fingerprint(trainer, module, data, notes):
    metrics = {"callback": trainer.callback_metrics, "logged": trainer.logged_metrics}
    return {
        "random": draw(),
        "module": portrait(module),
        "beside": portrait(module.beside()) if hasattr(module, "beside") else None,
        "data": portrait(data),
        "batches": notes.batches,
        "gradients": portrait(notes.gradients),
        "optimizers": portrait([x.state_dict() for x in trainer.optimizers]),
        "schedulers": portrait([x.scheduler.state_dict() for x in trainer.lr_scheduler_configs]),
        "metrics": portrait(
            {of: {k: v for k, v in found.items() if not k.startswith("audit/")} for of, found in metrics.items()}
        ),
        "progress": [trainer.global_step, trainer.current_epoch, trainer.should_stop],
    }
