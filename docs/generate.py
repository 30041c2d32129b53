"""Writes the pages made from the code: attacks.md, metrics.md, zoo.md, audit.schema.json, report.schema.json."""

import inspect
import json
import sys
from pathlib import Path

from leakage_audit.attacks import ATTACKS
from leakage_audit.options import recorded
from leakage_audit.readings.metric_table import as_markdown
from leakage_audit.report.records.audit_lines import AuditLine, GateLine
from leakage_audit.report.records.report_file import Report
from leakage_audit.report.records.schema import json_schema

ATTACKS_PAGE = """# The attacks

Made by `python docs/generate.py` from `leakage_audit.attacks.ATTACKS`, where an attack is a row. The name is what
`LeakageAudit(attacks=[...])`, a YAML file and `leakage-audit compare --attacks` take; what follows a colon
(`hybrid:constrained`) sets the argument that *name:…* names. In YAML an attack is a `class_path` with `init_args`, its
options included, and all of them are in the record.

"""

METRICS = """# The metrics

Made by `python docs/generate.py` from `leakage_audit/readings/metric_table.py`, where a metric is a row. A gate limits
what leaks more when it is *higher*. A number that is not known is missing, never low: see *limit* and *status* in
[the report](report.md).

"""

ZOO = """# What an audit makes of other people's modules

Made by `python docs/generate.py` from `tests/zoo`, where each is a small LightningModule in the manner of public
code. The tests train each with and without the audit: *audited* means that every step is audited with a gradient
recomputed to the step's own, *refused* that every audit is skipped with a sentence that names the cause. In both cases
the training is bit for bit what it is without.

¹ The plain module, the least that public classifiers have in common, in the situation that the row names.

| module | what happens | the way out |
|---|---|---|
"""


def attacks() -> str:
    """A section an attack: what it is, and its settings."""
    parts = []
    for name, attack in ATTACKS.items():
        about = (inspect.getdoc(attack) or "").partition("\n")[0]
        own = f"`name:{attack.choice}`. " if attack.choice else ""
        parts.append(f"## {name}\n\n`leakage_audit.attacks.{attack.__name__}`. {own}{about}\n\n")
        parts.append("| setting | default |\n|---|---|\n")
        parts += [f"| `{setting}` | {value} |\n" for setting, value in _flat(attack().settings)]
        parts.append("\n")
    return ATTACKS_PAGE + "".join(parts).rstrip() + "\n"


def _flat(settings: dict, above: str = "") -> list[tuple[str, str]]:
    """Settings by dotted name."""
    found = []
    for name, value in settings.items():
        inner = isinstance(value, dict) and "class" not in value
        found += _flat(value, f"{above}{name}.") if inner else [(above + name, json.dumps(recorded(value)))]
    return found


def zoo() -> str:
    """A row a specimen."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from zoo.catalogue import CASES
    from zoo.parts import Classifier

    rows = []
    for case in CASES:
        about = " ¹" if case.module is Classifier else _said(case.module)
        settings = ", ".join(f"`{name}`" for name in case.audit)
        happens = "refused" if case.refused else "audited" + (f" with {settings}" if settings else "")
        cure = ", ".join(f"`{name}`" for name in case.cure or {})
        rows.append(f"| {case.name}{about} | {happens} | {cure} |\n".replace("…", "..."))
    return ZOO + "".join(rows)


def _said(module: object) -> str:
    """A specimen's own first sentence after a colon, not that of its base; nothing where it has none."""
    own = vars(module).get("__doc__") if inspect.isclass(module) else None
    return f": {inspect.cleandoc(own).partition(chr(10))[0]}" if own else ""


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    lines = json_schema(AuditLine | GateLine, "a line of audit.jsonl of leakage-audit")
    report = json_schema(Report, "report.json of leakage-audit")
    return {
        "attacks.md": attacks(),
        "metrics.md": METRICS + '<div class="reasons" markdown>\n\n' + as_markdown() + "\n</div>\n",
        "zoo.md": zoo(),
        "audit.schema.json": json.dumps(lines, indent=2, ensure_ascii=False) + "\n",
        "report.schema.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")
