import json
import math
from pathlib import Path

import jsonschema
import pytest
from runs import PSNR, audit, gate, skipped, three, violations, write

from leakage_audit.report import SCHEMA, write_report
from leakage_audit.report.audits import digest
from leakage_audit.report.model import build
from leakage_audit.report.run import read_run

DOCUMENTED = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))


def read(folder):
    return json.loads(write_report(folder)["json"].read_text(encoding="utf-8"))


def measured(step):
    return audit(step, {}, kind="measure", samples=[])


RUNS = {
    "audits": [audit(0), audit(20), audit(40)],
    "with gates": [audit(0), gate(violations(25.0)), gate(limits={"audit/c": -1.0}, judged=[], verdict="unjudged")],
    "skipped": [skipped(0), skipped(20)],
    "measured": [measured(0), measured(5)],
    "problems": [audit(0, {}, problems={"c": "no chain", "joint": "no chain"}), audit(20, {"rgap": 3.0})],
    "not finite": [audit(0, metrics={"audit/c": None, "audit/seconds": None})],
    "two kinds": [audit(0, {"rgap": 20.0}), audit(0, {"rgap": 12.5}, gradient="step")],
    "gates alone": [gate(verdict="unjudged", judged=[])],
}


@pytest.mark.parametrize("name", RUNS)
def test_the_file_is_as_documented(tmp_path, name):
    report = read(write(tmp_path, *RUNS[name]))
    jsonschema.Draft202012Validator(DOCUMENTED).validate(report)
    assert report["schema"] == SCHEMA == DOCUMENTED["$defs"]["Report"]["properties"]["schema"]["enum"][0]


def test_the_documented_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(DOCUMENTED)


def test_the_verdict_is_that_of_the_image_that_gave_most_away(tmp_path):
    verdict = read(three(tmp_path))["verdict"]
    assert (verdict["word"], verdict["headline"]) == ("exact", "Training images came back exactly")
    assert (verdict["worst"]["attack"], verdict["worst"]["step"], verdict["worst"]["psnr"]) == ("joint", 0, 150.0)
    assert (verdict["latest"]["attack"], verdict["latest"]["step"], verdict["latest"]["word"]) == (
        "rgap",
        40,
        "recognisable",
    )
    assert verdict["detail"] == (
        "At step 0, joint reached the exact image: 150.0 dB, SSIM 0.20, where a guess scores 12.0 dB. "
        "In the last audit, at step 40: recognisable, 26.0 dB, SSIM 0.20, where a guess scores 12.0 dB."
    )


def test_one_image_that_came_back_is_not_made_good_by_others(tmp_path):
    record = audit(0, {"rgap": 13.0})
    record["samples"] += audit(0, {"rgap": 40.0})["samples"]
    report = read(write(tmp_path, record))
    (attack,) = report["attacks"]
    assert attack["word"] == "recognisable"
    assert attack["worst"]["psnr"] == 26.5
    assert attack["worst"]["highest"]["psnr"] == 40.0


@pytest.mark.parametrize(("psnr", "word"), [(13.0, None), (60.0, "exact")])
def test_a_low_word_does_not_stand_for_an_image_whose_attack_has_no_result(psnr, word):
    found = digest(audit(0, {"joint": psnr}, no_result={"joint": "out of time"}))
    assert found["no_result"] == {"joint": "out of time"}
    assert {name: x["word"] for name, x in found["attacks"].items()} == ({} if word is None else {"joint": word})


def test_each_reconstruction_is_held_against_the_guess_for_its_own_image(tmp_path):
    record = audit(0, {"rgap": 0.0}, gradient="step")
    (sample,) = record["samples"]
    sample["floor"] = {"psnr": [19.5, 8.0], "ssim": [0.2, 0.2]}
    sample["attacks"]["rgap"] |= {"psnr": [19.9, 20.0], "ssim": [0.2, 0.2], "order": [1, 0]}
    (attack,) = read(write(tmp_path, record))["attacks"]
    assert attack["worst"]["highest"] == {
        "psnr": 19.9,
        "ssim": 0.2,
        "chance_psnr": 8.0,
        "chance_ssim": 0.2,
        "word": "recognisable",
    }


def test_several_images_are_counted(tmp_path):
    record = audit(0, {"rgap": 0.0}, gradient="step")
    (sample,) = record["samples"]
    sample["floor"] = {"psnr": [12.0] * 3, "ssim": [0.2] * 3}
    sample["attacks"]["rgap"] |= {"psnr": [19.0, 60.0, 13.0], "ssim": [0.2] * 3, "order": [0, 1, 2]}
    (attack,) = read(write(tmp_path, record))["attacks"]
    worst = attack["worst"]
    assert (worst["images"], worst["recognisable"]) == (3, 2)
    assert (worst["highest"]["psnr"], worst["lowest"]["psnr"]) == (60.0, 13.0)


def test_attacks_come_in_the_order_of_what_they_got_back(tmp_path):
    attacks = read(three(tmp_path))["attacks"]
    assert [(attack["name"], attack["word"]) for attack in attacks] == [("joint", "exact"), ("rgap", "recognisable")]
    assert [attack["audits"] for attack in attacks] == [3, 3]
    assert attacks[0]["latest"]["psnr"] == PSNR["joint"][2]


def test_what_could_not_be_done_is_counted(tmp_path):
    report = read(write(tmp_path, audit(0), skipped(5), skipped(10), audit(20, problems={"c": "no chain"})))
    assert report["problems"] == [
        {"what": "audit", "reason": "FloatingPointError: NaN", "times": 2, "first_step": 5},
        {"what": "c", "reason": "no chain", "times": 1, "first_step": 20},
    ]
    assert (report["run"]["audits"], report["run"]["skipped"]) == (2, 2)


def test_the_gates_worst_verdict_counts(tmp_path):
    gates = [gate(), gate(limits={"audit/c": -1.0}, verdict="exceeded")]
    assert read(write(tmp_path, audit(0), *gates))["verdict"]["gates"] == "exceeded"
    assert read(write(tmp_path, audit(0)))["verdict"]["gates"] == "none"


def test_two_kinds_of_gradient_keep_their_names_apart(tmp_path):
    records = [audit(0, {"rgap": 16.0}), audit(0, {"rgap": 12.5}, gradient="step")]
    report = read(write(tmp_path, *records))
    assert {attack["name"]: attack["word"] for attack in report["attacks"]} == {
        "rgap (sample)": "silhouette",
        "rgap (step)": "unrecognisable",
    }
    assert all(attack["settings"] == {"tolerance": 1e-5} for attack in report["attacks"])


def tagged(record, tag):
    metrics = {tag + name.removeprefix("audit"): value for name, value in record["metrics"].items()}
    return record | {"tag": tag, "metrics": metrics}


@pytest.mark.parametrize(
    ("tag", "gradient", "own"), [("audit_step", "step", "step"), ("audit_optimizer1", "sample", "optimizer1")]
)
def test_two_audits_of_one_trainer_keep_their_numbers_apart(tag, gradient, own, tmp_path):
    first, again = audit(0, {"rgap": 16.0}), audit(20, {"rgap": 17.0})
    second = tagged(audit(0, {"rgap": 12.5}, gradient=gradient), tag)
    second["samples"][0]["attacks"]["rgap"] |= {"settings": {"tolerance": 0.5}, "seconds": 9.0}
    (tmp_path / "metrics.csv").write_text(f"step,{tag}/psnr/rgap,audit/psnr/rgap,loss\n0,12.5,16.0,2.0\n")
    report = read(write(tmp_path, first, second, again))
    assert report["run"]["audits"] == 3
    attacks = {attack["name"].partition(" (")[::2]: attack for attack in report["attacks"]}
    other = "sample)" if gradient == "step" else ""
    assert set(attacks) == {("rgap", other), ("rgap", f"{own})")}
    assert [attacks["rgap", x]["worst"]["highest"]["psnr"] for x in (other, f"{own})")] == [17.0, 12.5]
    assert [attacks["rgap", x]["seconds"] for x in (other, f"{own})")] == [0.5, 9.0]
    assert attacks["rgap", f"{own})"]["settings"] == {"tolerance": 0.5}
    assert [(entry["c"], entry["seconds"]) for entry in report["audits"]] == [(-1470.0, 1.0)] * 3
    assert "loss" in report["curves"]
    assert not [name for name in report["curves"] if name.startswith("audit")]


def test_averages_alone_give_words_by_their_psnr(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,audit/psnr/rgap,audit/chance\n0,25.0,12.0\n9,12.5,12.0\n")
    report = build(read_run(tmp_path))
    assert [entry["attacks"]["rgap"]["word"] for entry in report["audits"]] == ["recognisable", "unrecognisable"]
    assert not report["attacks"][0]["settings"]
    jsonschema.Draft202012Validator(DOCUMENTED).validate(read(tmp_path))


def test_curves_that_are_not_finite_are_thinned_out(tmp_path):
    run = read_run(three(tmp_path))
    run.points["train/loss"] += [(100, math.nan), (101, math.inf)]
    assert build(run)["curves"]["train/loss"]["steps"][-1] == 55
