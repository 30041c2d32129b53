"""Finds what a run has left: audits, gates' verdicts, curves, pictures. Also of a run that was killed half-way."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leakage_audit.figures import event_files
from leakage_audit.figures.event_files import Points
from leakage_audit.figures.logs import read_logs
from leakage_audit.report.audits import digest
from leakage_audit.report.records.audit_lines import AuditLine, GateLine
from leakage_audit.report.records.schema import mismatch

AUDITS, PICTURES = "audit.jsonl", "audit/images"
WRONG = 5  # lines of another form that are named; more would bury the rest
Record = dict[str, Any]


@dataclass
class Run:
    """What a run has left.

    Attributes:
        folder: The log directory.
        records: Audits and measurements by step; where a step was audited again after a resume, the later one.
        gates: Verdicts of gates, the last of each.
        points: Every logged scalar.
        notes: What was found amiss, in sentences.
        config: The configuration that the command line left, if it did.
        picture_steps: Steps of which there is a picture.
    """

    folder: Path
    records: list[Record] = field(default_factory=list)
    gates: list[Record] = field(default_factory=list)
    points: Points = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    config: Path | None = None
    picture_steps: list[int] = field(default_factory=list)
    _pictured: Path | None = None

    def pictures(self, steps: Collection[int]) -> dict[int, bytes]:
        """PNG data of some steps' pictures."""
        if self._pictured is None or not steps:
            return {}
        found = event_files.pictures(event_files.event_files(self._pictured), PICTURES, steps)
        drawn = {step: path for step, path in _drawn(self._pictured).items() if step in steps and step not in found}
        return found | {step: path.read_bytes() for step, path in drawn.items()}


def read_run(folder: Path, beside: Sequence[Path] = ()) -> Run:
    """Read a run.

    Args:
        folder: A fit's log directory, or one above it: the newest run below is read.
        beside: Other folders that may hold its curves and pictures.

    Raises:
        FileNotFoundError: If nothing in it was audited.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder.absolute()}")
    audited = _newest([path.parent for path in folder.rglob(AUDITS) if path.is_file()], AUDITS)
    logged = {path.parent for pattern in ("events.out.tfevents.*", "metrics.csv") for path in folder.rglob(pattern)}
    if not audited:
        return _without_records(folder, sorted(logged))
    run = Run(audited[0])
    if len(audited) > 1:
        others = ", ".join(str(path.relative_to(folder)) for path in audited[1:4])
        run.notes.append(f"{len(audited)} runs lie in this folder; this is the newest. Others: {others}.")
    _read_records(run)
    # With several loggers, curves and pictures may lie beside the audits' folder, under its name.
    namesakes = sorted(path for path in logged if path.name == run.folder.name and path != run.folder)
    places = list(dict.fromkeys([run.folder, *beside, *namesakes]))
    for place in places:
        points, pictured = _read_logs(place)
        run.points = run.points or points
        if pictured and run._pictured is None:
            run._pictured, run.picture_steps = place, pictured
    run.config = next((place / "config.yaml" for place in places if (place / "config.yaml").is_file()), None)
    return run


def _newest(folders: list[Path], name: str) -> list[Path]:
    return sorted(folders, key=lambda path: (path / name).stat().st_mtime, reverse=True)


def _read_records(run: Run) -> None:
    records: dict[tuple, Record] = {}
    gates: dict[str, Record] = {}
    broken, wrong = 0, list[str]()
    with (run.folder / AUDITS).open(encoding="utf-8", errors="replace") as file:
        for i, line in enumerate(file, start=1):
            record = _parse(line)
            if record is None:
                broken += bool(line.strip())
            elif (problem := _problem(record)) is not None:
                wrong.append(f"line {i} of {AUDITS} is left out: {problem}.")
            elif record.get("kind") == "gate":
                gates[json.dumps(record.get("limits"), sort_keys=True)] = record
            else:
                records[tuple(record.get(name) for name in ("step", "tag", "gradient", "probe"))] = record
    if broken:
        lines = "one line" if broken == 1 else f"{broken} lines"
        run.notes.append(f"{lines} of {AUDITS} could not be read: the run was killed while it wrote.")
    run.notes += wrong[:WRONG] + ([f"and {len(wrong) - WRONG} other lines."] if len(wrong) > WRONG else [])
    run.records = sorted(records.values(), key=lambda record: record["step"])
    run.gates = list(gates.values())


def _parse(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _problem(record: Record) -> str | None:
    """What about a line would lose the whole report: not of its type, or of several lengths; None if nothing."""
    if record.get("kind") == "gate":
        return mismatch(record, GateLine)
    found = mismatch(record, AuditLine)
    if found is None:
        try:
            digest(record)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            return f"{type(error).__name__}: {error}"
    return found


def _without_records(folder: Path, logged: list[Path]) -> Run:
    """Only what the loggers have: averages, no settings and no words on what was assumed."""
    for place in reversed(logged):
        points, pictured = _read_logs(place)
        by_step: dict[int, dict[str, float]] = {}
        for name, values in points.items():
            for step, value in values if name.startswith("audit/") else ():
                by_step.setdefault(step, {})[name] = value
        if by_step:
            records = [{"kind": "audit", "step": step, "metrics": by_step[step]} for step in sorted(by_step)]
            notes = [f"There is no {AUDITS}: only what the loggers kept is shown, averages and no settings."]
            return Run(place, records, points=points, notes=notes, picture_steps=pictured, _pictured=place)
    raise FileNotFoundError(f"{folder.absolute()} holds no audited run: no {AUDITS}, and nothing logged as audit/…")


def _read_logs(folder: Path) -> tuple[Points, list[int]]:
    """Every logged scalar of a log directory, and the steps of which it has a picture."""
    points, pictured = read_logs(folder, PICTURES)
    return points, sorted({*pictured, *_drawn(folder)})


def _drawn(folder: Path) -> dict[int, Path]:
    """Pictures that were written as files, by step."""
    found = {path.stem.removeprefix("step_"): path for path in (folder / "images").glob("step_*.png")}
    return {int(step): path for step, path in found.items() if step.isdigit()}
