"""A page in TensorBoard where leakage stands over loss, and audits' settings among the hyperparameters."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams
from typing_extensions import override

from leakage_audit.callbacks.audit import LeakageAudit, audits_of
from leakage_audit.callbacks.capture.supported_trainers import is_kind
from leakage_audit.callbacks.output import loggers
from leakage_audit.callbacks.output.chart_layout import LAYOUT
from leakage_audit.readings.metric_table import PSNR, C


class LeakageDashboard(Callback):
    """Give TensorBoard a *Custom Scalars* page with leakage over loss, and a line in its *HParams* table.

    A `LeakageAudit` by itself gives the page one chart, and only if you have none; this one has them all and takes the
    place of a layout of your own.

    Example::

        L.Trainer(callbacks=[LeakageAudit(), LeakageDashboard()])
    """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        audits = audits_of(trainer)
        loggers.lay_out_charts(trainer, LAYOUT, replace=True)
        logger: Any  # of either Lightning
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if is_kind(logger, "TensorBoardLogger"):
                # Before Lightning's own: TensorBoard shows the columns that it hears of first.
                names = {name: 0.0 for audit in audits for name in audit.names(pl_module) if PSNR.matches(name)}
                chosen = {name: value for audit in audits for name, value in _settings(audit).items()}
                given = {name: _plain(value) for name, value in dict(pl_module.hparams).items()}
                for part in hparams(given | chosen, names | {C.name: 0.0}):
                    logger.experiment.file_writer.add_summary(part)


def _settings(audit: LeakageAudit) -> dict[str, Any]:
    chosen = audit.settings
    found = {"attacks": ", ".join(chosen.attacks), "gradient": chosen.gradient, "probe": chosen.probe}
    return {f"audit/{name}": value for name, value in (found | {"samples": chosen.samples}).items()}


def _plain(value: Any) -> str | bool | int | float:
    """What TensorBoard can show of a hyperparameter."""
    return value if isinstance(value, str | bool | int | float) else str(value)
