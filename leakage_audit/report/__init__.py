"""The report of a run: one HTML page that says first what leaks, `report.json` for machines, JUnit XML for CI."""

from leakage_audit.report.model import SCHEMA
from leakage_audit.report.write import write_report

__all__ = ["SCHEMA", "write_report"]
