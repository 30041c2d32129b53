"""The verdict of a `LeakageGate` as the report's numbers: one check a limit."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from leakage_audit.report.records.report_file import Check, Gate


def digest(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Gate:
    """A gate as the report has it.

    Args:
        record: A line of kind `gate` of `audit.jsonl`.
        records: The run's audits and measurements by step: which of them the gate could judge.
    """
    verdict, patience = record.get("verdict", "unjudged"), record.get("patience", 1)
    checks = [_check(name, limit, record, records) for name, limit in (record.get("limits") or {}).items()]
    return {
        "verdict": verdict,
        "action": record.get("action", "warn"),
        "patience": patience,
        "unknown": record.get("unknown"),
        "checks": checks,
    }


def _check(name: str, limit: float, record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Check:
    own = [x for x in record.get("violations") or () if fnmatchcase(x["name"], name) and x["limit"] == limit]
    longest = max((_in_a_row(x, own, records) for x in {x["name"] for x in own}), default=0)
    judged = bool(own) or name in (record.get("judged") or ())
    doubt = (record.get("doubtful") or {}).get(name)
    exceeded = longest >= record.get("patience", 1)
    state: Any = "exceeded" if exceeded else "passed" if judged and doubt is None else "unjudged"
    highest = max(own, key=lambda x: -math.inf if x["value"] is None else x["value"], default=None)
    above = len({violation["step"] for violation in own})
    return {"name": name, "limit": limit, "state": state, "audits_above": above, "highest": highest, "doubt": doubt}


def _in_a_row(name: str, violations: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> int:
    """At how many audits in a row, of those that measured it, the number was above the limit."""
    above = {violation["step"] for violation in violations if violation["name"] == name}
    measured = {record["step"] for record in records if name in (record.get("metrics") or {})} | above
    longest = current = 0
    for step in sorted(measured):
        current = current + 1 if step in above else 0
        longest = max(longest, current)
    return longest
