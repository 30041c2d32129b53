"""Attacks that did not end by themselves, and what is known without them, in all of a report's files."""

import json
from xml.etree import ElementTree as ET

import pytest
from runs import audit, gate, write

from leakage_audit.report import write_report


def unended(step, psnr, **more):
    record = audit(step, {"joint": psnr}, **more)
    record["samples"][0]["attacks"]["joint"]["out_of_time"] = True
    return record


def written(folder, *records):
    paths = write_report(write(folder, *records))
    return json.loads(paths["json"].read_text()), paths["html"].read_text(), ET.parse(paths["junit"]).getroot()


def test_a_run_out_of_time_has_no_result_and_no_word(tmp_path):
    report, page, junit = written(tmp_path, unended(0, 12.4), unended(20, 12.4))
    verdict = report["verdict"]
    assert (verdict["word"], verdict["status"], verdict["worst"]) == (None, "unknown", None)
    assert verdict["headline"] == "No attack came to a result; what a better attack could get is not known"
    assert "joint: out of time" in verdict["detail"]
    assert report["attacks"] == []
    assert '>joint</td><td data-head="at its best">no result<span class="sub">out of time' in page
    assert 'class="card verdict tone-unknown"' in page
    assert junit.find(".//property[@name='status']").get("value") == "unknown"


def test_a_curve_has_no_point_where_the_attack_did_not_end(tmp_path):
    report, page, _ = written(tmp_path, audit(0, {"joint": 146.6}), unended(20, 12.4), unended(40, 12.4))
    assert [list(entry["attacks"]) for entry in report["audits"]] == [["joint"], [], []]
    assert report["audits"][1]["no_result"] == {"joint": "out of time"}
    assert "<title>joint, step 0" in page
    assert "<title>joint, step 20" not in page
    assert "At step 40 there is no result: joint, out of time." in report["verdict"]["detail"]
    assert report["verdict"]["status"] == "leaks"


@pytest.mark.parametrize(("status", "tone"), [("protected", "protected"), ("open", "open"), ("unknown", "unknown")])
def test_a_low_word_has_the_colour_of_what_is_known(tmp_path, status, tone):
    report, page, _ = written(tmp_path, audit(0, {"joint": 12.4}, status=status))
    assert report["verdict"]["word"] == "unrecognisable"
    assert f'class="card verdict tone-{tone}"' in page
    assert ("A stronger attack may see more." in report["verdict"]["detail"]) == (status != "protected")


def test_a_record_that_is_older_than_the_status_is_not_taken_for_safe(tmp_path):
    report, _, _ = written(tmp_path, audit(0, {"joint": 12.4}))
    assert report["verdict"]["status"] == "unknown"


def test_a_limit_in_doubt_is_an_error_in_ci_that_says_why(tmp_path):
    record = gate(verdict="unjudged") | {"doubtful": {"audit/psnr/*": "out of time"}, "unknown": "warn"}
    report, page, junit = written(tmp_path, unended(0, 12.4), record)
    (check,) = report["gates"][0]["checks"]
    assert (check["state"], check["doubt"]) == ("unjudged", "out of time")
    assert junit.find(".//error").get("message") == "out of time"
    assert 'unknown<span class="sub">out of time' in page


def test_a_violation_without_a_number_says_so(tmp_path):
    record = gate([("audit/psnr/joint", None, 25.0, 0)], verdict="exceeded")
    record["violations"][0]["unknown"] = "out of time"
    _, page, junit = written(tmp_path, unended(0, 12.4), record)
    assert junit.find(".//failure").get("message") == "audit/psnr/joint is unknown at step 0: out of time"
    assert "unknown<span" in page


def test_the_last_audit_without_a_result_is_not_that_before_it(tmp_path):
    report, page, _ = written(tmp_path, audit(0, {"joint": 146.6}), unended(20, 12.4))
    assert report["verdict"]["latest"] is None
    assert "In the last audit" not in report["verdict"]["detail"]
    assert "<span>Last audit</span><b>no result</b>" in page
    assert page.count('>no result<span class="sub">out of time') == 1  # in the attack's row


@pytest.mark.parametrize("status", ["protected", "open", "unknown"])
def test_a_headline_of_a_low_word_says_what_is_known(tmp_path, status):
    report, _, junit = written(tmp_path, audit(0, {"joint": 12.4}, status=status))
    ends = {"protected": "no recognisable image", "open": "determines a recognisable image", "unknown": "not known"}
    assert report["verdict"]["headline"].endswith(ends[status])
    assert junit.find(".//testcase").get("name") == report["verdict"]["headline"]


def test_a_curve_is_broken_where_the_attack_did_not_end(tmp_path):
    first, last = audit(0, {"joint": 20.0}), audit(40, {"joint": 20.0})
    whole = written(tmp_path / "whole", first, audit(20, {"joint": 20.0}), last)[1]
    broken = written(tmp_path / "broken", first, unended(20, 12.4), last)[1]
    assert broken.count('class="line s1"') == whole.count('class="line s1"') + 2  # PSNR and SSIM in two pieces each


def test_the_limit_is_drawn_where_no_attack_has_a_result(tmp_path):
    record = unended(0, 12.4, status="protected")
    record["metrics"] = {"audit/limit": 13.0, "audit/chance": 12.0}
    page = written(tmp_path, record)[1]
    assert 'class="line limit"' in page
    assert 'class="line chance"' in page
