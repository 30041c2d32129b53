"""Writes the pages that are made from the code: docs/metrics.md, docs/audit.schema.json, docs/report.schema.json."""

import json
from pathlib import Path

from leakage_audit.readings.metric_table import as_markdown
from leakage_audit.report.records.audit_lines import AuditLine, GateLine
from leakage_audit.report.records.report_file import Report
from leakage_audit.report.records.schema import json_schema

METRICS = """# The metrics

Made by `python docs/generate.py` from `leakage_audit/readings/metric_table.py`, where a metric is a row. A gate limits
what leaks more when it is *higher*. A number that is not known is missing, never low: see *limit* and *status* in
[the report](report.md).

"""


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    lines = json_schema(AuditLine | GateLine, "a line of audit.jsonl of leakage-audit")
    report = json_schema(Report, "report.json of leakage-audit")
    return {
        "metrics.md": METRICS + as_markdown(),
        "audit.schema.json": json.dumps(lines, indent=2, ensure_ascii=False) + "\n",
        "report.schema.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")
