from xml.etree import ElementTree as ET

import pytest
from runs import gate, three, violations

from leakage_audit.report import write_report

# What Ant's schema demands and Jenkins's allows: the element's required attributes, its optional ones, its children.
FORMAT = {
    "testsuites": (set(), set(), ["testsuite"]),
    "testsuite": (
        {"package", "id", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"},
        {"skipped"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, set(), []),
    "testcase": ({"name", "classname", "time"}, set(), ["skipped", "error", "failure"]),
    "failure": ({"type"}, {"message"}, []),
    "error": ({"type"}, {"message"}, []),
    "skipped": (set(), {"message"}, []),
    "system-out": (set(), set(), []),
    "system-err": (set(), set(), []),
}


def written(folder, *gates):
    return ET.parse(write_report(three(folder, *gates))["junit"]).getroot()


def check(element):
    required, optional, children = FORMAT[element.tag]
    assert required <= set(element.keys()) <= required | optional
    assert [child.tag for child in element] == sorted((child.tag for child in element), key=children.index)
    for child in element:
        check(child)


@pytest.mark.parametrize(
    "gates",
    [
        [],
        [gate()],
        [gate(violations(25.0), verdict="exceeded"), gate(limits={"audit/c": -1.0}, judged=[], verdict="unjudged")],
    ],
)
def test_the_file_is_of_the_format(tmp_path, gates):
    root = written(tmp_path, *gates)
    check(root)
    for i, suite in enumerate(root):
        cases = suite.findall("testcase")
        assert suite.get("id") == str(i)
        assert int(suite.get("tests")) == len(cases)
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(count)) == sum(case.find(tag) is not None for case in cases)
        assert len(suite.get("timestamp")) == len("2026-01-01T00:00:00")


def test_a_limit_that_was_exceeded_is_a_failed_test_that_says_by_how_much(tmp_path):
    root = written(tmp_path, gate(violations(25.0), verdict="exceeded"))
    (case,) = root.iter("testcase")
    assert case.get("name") == "audit/psnr/* at most 25"
    assert case.find("failure").get("message") == "audit/psnr/joint reached 150 at step 0"
    assert "where a guess scores 12.0 dB" in case.find("failure").text


def test_a_limit_that_was_kept_passes_and_one_never_measured_is_an_error(tmp_path):
    limits = {"audit/psnr/*": 200.0, "audit/joint_deficiency": 0.0}
    root = written(tmp_path, gate(limits=limits, judged=["audit/psnr/*"], verdict="unjudged"))
    kept, unjudged = root.iter("testcase")
    assert len(kept) == 0
    assert "never measured" in unjudged.find("error").get("message")


def test_without_a_gate_the_verdict_is_told_and_nothing_fails(tmp_path):
    (case,) = written(tmp_path).iter("testcase")
    assert case.get("name") == "Training images came back exactly"
    assert case.find("skipped") is not None
