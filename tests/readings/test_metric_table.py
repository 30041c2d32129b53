"""The table of metrics on evaluations made by hand, whose numbers are known."""

import math

import pytest
from evaluations_by_hand import evaluation, outcome

from leakage_audit.readings import extraction
from leakage_audit.readings.evaluation import audit_status, no_results
from leakage_audit.readings.metric_table import METRICS, metric_of, read_all


def test_the_psnr_is_that_of_the_image_that_leaked_most_and_the_mean_stands_beside_it():
    found = read_all([evaluation({"a": outcome([13.0, 15.0])}), evaluation({"a": outcome([14.0])}, chance=5.0)])
    assert found["audit/psnr/a"] == 14.0  # 9 dB above its guess: recognisable
    assert found["audit/psnr_mean/a"] == pytest.approx(14.0)
    assert found["audit/chance"] == 5.0  # of the same image


def test_an_attack_out_of_time_has_no_number():
    found = read_all([evaluation({"a": outcome([13.0])}), evaluation({"a": outcome([14.0], out_of_time=True)})])
    assert not {name for name in found if "/a" in name}
    evaluations = [evaluation({"a": outcome([13.0], residual=math.nan, converged=False)})]
    assert not {name for name in read_all(evaluations) if "/a" in name}
    assert no_results(evaluations) == {"a": (13.0, "its end")}


@pytest.mark.parametrize("psnr", [13.0, 60.0])
def test_an_image_that_an_attack_never_came_to_is_missing_like_one_that_it_did_not_end_on(psnr):
    never = evaluation({}, [30.0], solved=False)
    never.problems["a"] = "out of time"
    evaluations = [evaluation({"a": outcome([psnr])}), never]
    found = read_all(evaluations)
    assert found.get("audit/psnr/a") == (60.0 if psnr == 60.0 else None)  # what has leaked stays leaked
    assert "audit/psnr_mean/a" not in found
    assert no_results(evaluations) == ({} if psnr == 60.0 else {"a": (13.0, "out of time")})
    never.refused.add("a")  # an attack that does not apply misses nothing
    assert read_all(evaluations)["audit/psnr/a"] == psnr


def test_what_has_leaked_stays_leaked_whatever_the_other_images_attack_did():
    evaluations = [evaluation({"a": outcome([60.0])}), evaluation({"a": outcome([14.0], out_of_time=True)})]
    found = read_all(evaluations)
    assert found["audit/psnr/a"] == 60.0
    assert "audit/psnr_mean/a" not in found
    assert audit_status(evaluations) == "leaks"


def test_limits_and_gap():
    attacks = {"a": outcome([13.0, 20.0]), "b": outcome([15.0, 16.0])}
    found = read_all([evaluation(attacks, [30.0, 22.0], known=[31.0, 9.0])])
    assert (found["audit/limit"], found["audit/limit_others_known"], found["audit/gap"]) == (30.0, 31.0, 15.0)
    unsolved = read_all([evaluation({"a": outcome([13.0])}, [30.0], solved=False)])
    assert not {"audit/limit", "audit/gap"} & unsolved.keys()
    half = read_all([evaluation({"a": outcome([13.0])}, [14.0]), evaluation({"a": outcome([13.0])})])
    assert "audit/limit" not in half


@pytest.mark.parametrize(
    ("psnr", "limit", "solved", "expected"),
    [([13.0], None, True, "unknown"), ([13.0], [13.5], True, "protected"), ([13.0], [13.5], False, "unknown"),
     ([13.0], [40.0], False, "open"), ([30.0], [13.0], True, "leaks")],
)  # fmt: skip
def test_the_status_of_an_audit(psnr, limit, solved, expected):
    assert audit_status([evaluation({"a": outcome(psnr)}, limit, solved)]) == expected


def test_every_number_that_is_logged_has_one_row():
    names = [name for metric in METRICS for name in metric.names(attack=["a", "b"], layer=["conv1"])]
    assert len(names) == len(set(names))
    for name in names:
        assert [metric for metric in METRICS if metric.matches(name)] == [metric_of(name)]
    assert metric_of("val/loss") is None


def test_layers_are_called_without_the_path_that_they_share():
    assert extraction.short(["net.a.conv", "net.b.conv"]) == ["a.conv", "b.conv"]
    assert extraction.short([]) == []
    assert extraction.short(["conv"]) == ["conv"]
