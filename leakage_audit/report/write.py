"""Writes a run's report: `report.html`, `report.json`, `junit.xml`."""

import json
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from leakage_audit.report.junit import junit
from leakage_audit.report.model import build
from leakage_audit.report.page import choose, page
from leakage_audit.report.run import read_run


def write_report(
    run_dir: str | PathLike[str], output: str | PathLike[str] | None = None, beside: Sequence[Path] = ()
) -> dict[str, Path]:
    """Write the report of a run, also of one that was killed half-way, or has no pictures, or is still going.

    Args:
        run_dir: A fit's log directory, or a folder above it: then the newest run below.
        output: Where the files go; by default into the log directory.
        beside: Other folders that may hold curves and pictures, of a fit with several loggers.

    Returns:
        Where they are, by `html`, `json`, `junit`.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing in it was audited.
        OSError: If the files cannot be written.
    """
    run = read_run(Path(run_dir), beside)
    report = build(run)
    pictures = run.pictures(set(choose(report, run.picture_steps)))
    folder = Path(output) if output is not None else run.folder
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"html": folder / "report.html", "json": folder / "report.json", "junit": folder / "junit.xml"}
    config = None if run.config is None else str(run.config)
    paths["html"].write_text(page(report, pictures, config), encoding="utf-8", errors="replace")  # lone surrogates
    paths["json"].write_text(json.dumps(_plain(report), allow_nan=False), encoding="utf-8")
    paths["junit"].write_bytes(junit(report))
    return paths


def _plain(value: Any) -> Any:
    """Numbers that are not finite as null, which is what JSON can say."""
    if isinstance(value, dict):
        return {name: _plain(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
