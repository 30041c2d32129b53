"""The documented schemas are those of the types, and one bad line loses itself alone."""

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from runs import audit, gate, skipped, violations, write

from leakage_audit.report import write_report
from leakage_audit.report.records.audit_lines import AuditLine, GateLine
from leakage_audit.report.records.schema import json_schema, mismatch

DOCS = Path(__file__).parents[2] / "docs"
LINES = {
    "audit": audit(0),
    "skipped": skipped(0),
    "gate": gate(violations(25.0)),
    "measurement": audit(0, {}, kind="measure", samples=[]),
}
SPOILT = {
    "no floor": lambda line: line["samples"][0].pop("floor"),
    "samples no list": lambda line: line.update(samples={"0": 1}),
    "text for a number": lambda line: line["metrics"].update({"audit/c": "low"}),
    "scores of two lengths": lambda line: line["samples"][0]["attacks"]["joint"].update(ssim=[]),
    "order beyond the images": lambda line: line["samples"][0]["attacks"]["joint"].update(order=[7]),
    "null for a PSNR": lambda line: line["samples"][0]["attacks"]["joint"].update(psnr=[None]),
    "problems a list": lambda line: line.update(problems=["x"]),
    "layer without rank": lambda line: line["layers"][0].pop("rank"),
}


def generated():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


@pytest.mark.parametrize("name", ["attacks.md", "metrics.md", "zoo.md", "audit.schema.json", "report.schema.json"])
def test_what_is_documented_is_what_the_code_says(name):
    assert (DOCS / name).read_text(encoding="utf-8") == generated()[name], "run python docs/generate.py"


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_as_documented_and_the_reader_agrees(name):
    schema = json_schema(AuditLine | GateLine, "line")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(LINES[name])
    assert mismatch(LINES[name], GateLine if name == "gate" else AuditLine) is None


@pytest.mark.parametrize("value", [1.5, True, "x", None, [], {}])
@pytest.mark.parametrize("field", ["step", "epoch", "metrics", "samples", "layers", "skipped", "assumed", "kind"])
def test_the_readers_check_is_that_of_the_schema(field, value):
    line = audit(0) | {field: value}
    valid = jsonschema.Draft202012Validator(json_schema(AuditLine, "line")).is_valid(line)
    assert (mismatch(line, AuditLine) is None) == valid


@pytest.mark.parametrize("name", SPOILT)
def test_one_malformed_line_does_not_lose_the_report(tmp_path, name):
    bad = audit(20)
    SPOILT[name](bad)
    report = json.loads(
        write_report(write(tmp_path, audit(0), audit(40), tail=json.dumps(bad) + "\n"))["json"].read_text()
    )
    assert [entry["step"] for entry in report["audits"]] == [0, 40]
    (note,) = report["notes"]
    assert note.startswith("line 3 of audit.jsonl is left out: ")


def test_control_characters_do_not_break_the_junit_file(tmp_path):
    dirty = gate([("audit/psnr/\x00\x1bjoint", 30.0, 25.0, 0)], {"audit/psnr/*": 25.0, "a\ud800\x07b": 1.0})
    paths = write_report(write(tmp_path / "run \x01", audit(0), dirty))
    root = ET.parse(paths["junit"]).getroot()
    assert len(list(root.iter("testcase"))) == 2
    assert "audit/psnr/��joint reached 30" in root.find(".//failure").get("message")


def test_a_gates_action_is_escaped(tmp_path):
    evil = gate(violations(25.0)) | {"action": "<script>alert(1)</script>"}
    page = write_report(write(tmp_path, audit(0), evil))["html"].read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
