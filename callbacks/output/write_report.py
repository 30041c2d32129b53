"""The report of a fit, written when it ends, however it ends."""

import json
import logging
from pathlib import Path

from lightning import Trainer

from leakage_audit.callbacks.capture.supported_trainers import is_kind
from leakage_audit.callbacks.output import console, loggers
from leakage_audit.report import write_report

log = logging.getLogger("leakage_audit")


def write(trainer: Trainer, folder: Path | None) -> None:
    """Write `report.html`, `report.json` and `junit.xml` beside the audits, and print the summary table.

    Args:
        trainer: Whose loggers hold curves and pictures.
        folder: Where `audit.jsonl` is; nothing is written where it is not.
    """
    if folder is None or not trainer.is_global_zero or not (folder / "audit.jsonl").is_file():
        return
    try:
        loggers.flush(trainer)
        for logger in trainer.loggers:
            if is_kind(logger, "CSVLogger"):
                logger.save()
        beside = [Path(found) for logger in trainer.loggers if (found := getattr(logger, "log_dir", None))]
        paths = write_report(folder, beside=beside)
        console.summarise(trainer, json.loads(paths["json"].read_text(encoding="utf-8")), paths["html"])
    except Exception as error:  # a fit that took a day must not end in an error over its report
        log.warning("the leakage report could not be written: %s: %s", type(error).__name__, error)
        log.debug("report failed", exc_info=True)
