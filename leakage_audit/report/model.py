"""The report as plain numbers and words: what `report.json` holds and the page shows (docs/report.schema.json)."""

from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import fmean
from typing import Any, cast

from leakage_audit.report import gates
from leakage_audit.report.audits import digest, leak, suffixes, tag_of
from leakage_audit.report.curves import thin
from leakage_audit.report.records.report_file import SCHEMA as SCHEMA
from leakage_audit.report.records.report_file import (
    Assumptions,
    AttackAtStep,
    AttackSummary,
    AuditDigest,
    Problem,
    Report,
)
from leakage_audit.report.run import Record, Run
from leakage_audit.report.verdict import judge


def build(run: Run) -> Report:
    """Everything that the report says about a run, apart from its pictures."""
    told = suffixes(run.records)
    audits = [digest(record, suffix) for record, suffix in zip(run.records, told, strict=True)]
    logged = {tag_of(record) + "/" for record in run.records}
    judged = [gates.digest(record, run.records) for record in run.gates]
    measured = next((record for record in reversed(run.records) if record.get("layers")), {})
    last = run.records[-1] if run.records else {}
    return {
        "schema": 1,
        "generator": f"leakage-audit {version('leakage-audit')}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": {
            "name": _name(run),
            "began": run.records[0].get("time") if run.records else None,
            "last_audit": last.get("time"),
            "last_step": last.get("step"),
            "audits": sum(audit["kind"] == "audit" and audit["skipped"] is None for audit in audits),
            "measurements": sum(audit["kind"] == "measure" and audit["skipped"] is None for audit in audits),
            "skipped": sum(audit["skipped"] is not None for audit in audits),
            "seconds": sum(audit["seconds"] or 0.0 for audit in audits),
        },
        "verdict": judge(audits, judged),
        "gates": judged,
        "attacks": _attacks(run.records, told, audits),
        "layers": measured.get("layers", []),
        "assumptions": _assumptions(run.records),
        "problems": _problems(run.records),
        "notes": run.notes,
        "audits": audits,
        "curves": {
            name: {"steps": [step for step, _ in kept], "values": [value for _, value in kept]}
            for name, points in sorted(run.points.items())
            if not name.startswith(("audit/", *logged)) and (kept := thin(points))
        },
        "versions": last.get("versions", {}),
    }


def _name(run: Run) -> str:
    folder = run.folder.absolute()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name


def _attacks(records: list[Record], told: list[str], audits: list[AuditDigest]) -> list[AttackSummary]:
    """Each attack over the whole run: the audit in which most leaked, the last one, time and manner of ending."""
    found = []
    for name in dict.fromkeys(name for audit in audits for name in audit["attacks"]):
        own: list[AttackAtStep] = [
            {**audit["attacks"][name], "step": audit["step"]} for audit in audits if name in audit["attacks"]
        ]
        results = [x for record, suffix in zip(records, told, strict=True) for x in _results(record, name, suffix)]
        last: dict[str, Any] = results[-1] if results else {}
        highest = max(own, key=lambda x: leak(x["highest"]))
        seconds = [result["seconds"] for result in results if result.get("seconds") is not None]
        entry: AttackSummary = {
            "name": name,
            "word": highest["word"],
            "audits": len(own),
            "worst": highest,
            "latest": own[-1],
            "settings": last.get("settings", {}),
            "ended": last.get("ended"),
            "seconds": fmean(seconds) if seconds else None,
            "out_of_time": sum(bool(result.get("out_of_time")) for result in results),
        }
        found.append(entry)
    return sorted(found, key=lambda attack: leak(attack["worst"]["highest"]), reverse=True)


def _results(record: Record, name: str, suffix: str) -> list[dict[str, Any]]:
    """What an attack's lines say in a record, if it is one of the record's audit, whose suffix its name carries."""
    plain = name.removesuffix(suffix) if name.endswith(suffix) else None
    return [x["attacks"][plain] for x in record.get("samples") or () if plain in (x.get("attacks") or {})]


def _assumptions(records: list[Record]) -> Assumptions:
    """What was assumed, each thing once: a run may hold audits of several kinds."""
    known = {name: list(dict.fromkeys(str(x[name]) for x in records if x.get(name) is not None)) for name in _TOLD}
    said = dict.fromkeys(sentence for record in records for sentence in record.get("assumed") or ())
    return cast(Assumptions, known | {"assumed": list(said)})


_TOLD = ("knowledge", "gradient", "probe", "chance", "seed", "precision", "ranks")


def _problems(records: list[Record]) -> list[Problem]:
    """What could not be done, how often, and at which step first."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], int] = {}
    for record in records:
        reasons = dict(record.get("problems") or {}) | ({"audit": record["skipped"]} if record.get("skipped") else {})
        for key in reasons.items():
            counts[key] += 1
            first.setdefault(key, record["step"])
    return [{"what": key[0], "reason": key[1], "times": n, "first_step": first[key]} for key, n in counts.most_common()]
