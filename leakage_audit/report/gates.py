"""The verdict of a `LeakageGate` as the report's numbers: one check a limit."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any


def digest(record: Mapping[str, Any]) -> dict[str, Any]:
    """A gate; see docs/report.schema.json, `gates`.

    Args:
        record: A line of kind `gate` of `audit.jsonl`.
    """
    above, judged = record.get("violations") or [], set(record.get("judged") or [])
    checks = [_check(name, limit, above, judged) for name, limit in (record.get("limits") or {}).items()]
    verdict, patience = record.get("verdict", "unjudged"), record.get("patience", 1)
    return {"verdict": verdict, "action": record.get("action", "warn"), "patience": patience, "checks": checks}


def _check(name: str, limit: float, violations: list[dict[str, Any]], judged: set[str]) -> dict[str, Any]:
    own = [violation for violation in violations if fnmatchcase(violation["name"], name)]
    highest = max(own, key=lambda violation: violation["value"], default=None)
    state = "exceeded" if own else "passed" if name in judged else "unjudged"
    return {"name": name, "limit": limit, "state": state, "violations": len(own), "highest": highest}
