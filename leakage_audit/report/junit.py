"""Gates as JUnit XML, so that CI shows each limit as a test."""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from leakage_audit.report.charts import number
from leakage_audit.report.verdict import scores

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Mapping[str, Any]) -> bytes:
    """One suite a gate, one test case a limit: failed if exceeded, an error if it could not be judged.

    A run without a gate has one suite with one case, skipped, that tells what was found. The file is valid under both
    schemas in use: Ant's, which demands more attributes than anybody reads, and Jenkins's.

    Args:
        report: As `model.build` makes it.
    """
    root = ET.Element("testsuites")
    for i, gate in enumerate(report["gates"], start=1):
        suite = _suite(root, report, f"LeakageGate {i}" if len(report["gates"]) > 1 else "LeakageGate", gate["checks"])
        for check in gate["checks"]:
            _case(suite, report, gate, check)
        _output(suite)
    if not report["gates"]:
        suite = _suite(root, report, "LeakageAudit", [{"state": "skipped"}])
        case = ET.SubElement(suite, "testcase", classname="LeakageAudit", name=report["verdict"]["headline"], time="0")
        ET.SubElement(case, "skipped", message="no LeakageGate was set, so nothing could fail")
        _output(suite)
    for element in root.iter():
        element.text = None if element.text is None else _legal(element.text)
        element.attrib.update({name: _legal(value) for name, value in element.attrib.items()})
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _legal(text: str) -> str:
    """The text without the characters that no XML file may hold, not even escaped."""
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)


def _suite(root: ET.Element, report: Mapping[str, Any], name: str, checks: list[dict[str, Any]]) -> ET.Element:
    counts = {"failures": "exceeded", "errors": "unjudged", "skipped": "skipped"}
    numbers = {name: str(sum(check["state"] == state for check in checks)) for name, state in counts.items()}
    time = (report["run"]["last_audit"] or report["written"]).partition("+")[0]
    about = {"name": name, "tests": str(len(checks)), **numbers, "time": f"{report['run']['seconds']:.3f}"}
    about |= {"timestamp": time, "hostname": "localhost", "package": "leakage_audit", "id": str(len(root))}
    suite = ET.SubElement(root, "testsuite", about)
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="run", value=report["run"]["name"])
    ET.SubElement(properties, "property", name="verdict", value=report["verdict"]["word"] or "none")
    ET.SubElement(properties, "property", name="status", value=report["verdict"]["status"] or "none")
    return suite


def _output(suite: ET.Element) -> None:
    for name in ("system-out", "system-err"):
        ET.SubElement(suite, name)


def _case(suite: ET.Element, report: Mapping[str, Any], gate: Mapping[str, Any], check: Mapping[str, Any]) -> None:
    name = f"{check['name']} at most {number(check['limit'])}"
    case = ET.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name, time="0")
    if check["state"] == "exceeded":
        highest = check["highest"]
        message = f"{highest['name']} reached {number(highest['value'])} at step {highest['step']}"
        if highest.get("unknown"):
            message = f"{highest['name']} is unknown at step {highest['step']}: {highest['unknown']}"
        worst = report["verdict"]["worst"]
        meaning = "" if worst is None else f"\nMost that leaked: {worst['word']}, {worst['attack']}, {scores(worst)}."
        times = (
            f"Above the limit at {check['audits_above']} audits; patience {gate['patience']}, action {gate['action']}."
        )
        ET.SubElement(case, "failure", type="LeakageLimitExceeded", message=message).text = times + meaning
    elif check["state"] == "unjudged":
        ET.SubElement(case, "error", type="Unjudged", message=check["doubt"] or "never measured: silence is no proof")
