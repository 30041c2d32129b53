"""A page in TensorBoard where leakage stands over loss, and audits' settings among the hyperparameters."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams
from typing_extensions import override

from leakage_audit.callbacks.audit import LeakageAudit, audits_of
from leakage_audit.callbacks.capture.supported_trainers import is_kind

LAYOUT = {
    "Leakage over loss": {
        "PSNR above a guess": ["Multiline", [r"audit/psnr/.*", r"audit/chance"]],
        "SSIM": ["Multiline", [r"audit/ssim/.*"]],
        "Loss": ["Multiline", [r"^(?!audit/).*loss.*"]],
        "Accuracy": ["Multiline", [r"^(?!audit/).*acc.*"]],
    },
    "What the equations say": {
        "c(M) and joint deficiency, 0 is worst": ["Multiline", [r"audit/c$", r"audit/joint_deficiency"]],
        "Deficiency by layer": ["Multiline", [r"audit/layer/.*/deficiency"]],
        "Condition by layer": ["Multiline", [r"audit/layer/.*/condition"]],
    },
}


class LeakageDashboard(Callback):
    """Give TensorBoard a *Custom Scalars* page with leakage over loss, and a line in its *HParams* table.

    Opt-in: a run has one such page, so this replaces a layout of your own.

    Example::

        L.Trainer(callbacks=[LeakageAudit(), LeakageDashboard()])
    """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        audits = audits_of(trainer)
        logger: Any  # of either Lightning
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if is_kind(logger, "TensorBoardLogger"):
                logger.experiment.add_custom_scalars(LAYOUT)
                # Before Lightning's own: TensorBoard shows the columns that it hears of first.
                names = {name: 0.0 for audit in audits for name in audit.names(pl_module) if "/psnr/" in name}
                chosen = {name: value for audit in audits for name, value in _settings(audit).items()}
                given = {name: _plain(value) for name, value in dict(pl_module.hparams).items()}
                for part in hparams(given | chosen, names | {"audit/c": 0.0}):
                    logger.experiment.file_writer.add_summary(part)


def _settings(audit: LeakageAudit) -> dict[str, Any]:
    chosen = audit.settings
    found = {"attacks": ", ".join(chosen.attacks), "gradient": chosen.gradient, "probe": chosen.probe}
    return {f"audit/{name}": value for name, value in (found | {"samples": chosen.samples}).items()}


def _plain(value: Any) -> str | bool | int | float:
    """What TensorBoard can show of a hyperparameter."""
    return value if isinstance(value, str | bool | int | float) else str(value)
