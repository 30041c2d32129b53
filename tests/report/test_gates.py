import pytest
from runs import STEPS, audit, gate, violations

from leakage_audit.report.gates import digest

RECORDS = [audit(step) for step in STEPS]  # joint: 150, 31, 16 dB; rgap: 12, 18, 26 dB


@pytest.mark.parametrize(
    ("limit", "patience", "state", "above"),
    [(25.0, 1, "exceeded", 2), (25.0, 2, "exceeded", 2), (25.0, 3, "passed", 2), (200.0, 1, "passed", 0)],
)
def test_a_limit_is_exceeded_as_often_in_a_row_as_its_gate_minds(limit, patience, state, above):
    record = gate(violations(limit), {"audit/psnr/joint": limit}, patience=patience)
    (check,) = digest(record, RECORDS)["checks"]
    assert (check["state"], check["audits_above"]) == (state, above)
    assert (check["highest"] or {}).get("value") == (150.0 if above else None)


def test_a_pattern_counts_each_name_by_itself():
    """Joint is above at 0 and 20, rgap at 40: three audits, but two in a row."""
    both = violations(25.0) + violations(25.0, "rgap")
    (check,) = digest(gate(both, patience=3), RECORDS)["checks"]
    assert (check["state"], check["audits_above"]) == ("passed", 3)


def test_audits_that_did_not_measure_the_number_neither_count_nor_break_the_row():
    between = audit(10, {}, kind="measure")
    records = [RECORDS[0], between, *RECORDS[1:]]
    (check,) = digest(gate(violations(25.0), {"audit/psnr/joint": 25.0}, patience=2), records)["checks"]
    assert check["state"] == "exceeded"


def test_what_was_never_measured_is_unjudged():
    record = gate(limits={"audit/psnr/*": 25.0, "audit/joint_deficiency": -1.0}, judged=["audit/psnr/*"])
    assert [check["state"] for check in digest(record, RECORDS)["checks"]] == ["passed", "unjudged"]
