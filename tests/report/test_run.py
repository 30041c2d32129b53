import json
import os

import pytest
from runs import audit, gate, three, write

from leakage_audit.report.run import read_run


def test_everything_a_run_left_is_found(tmp_path):
    run = read_run(three(tmp_path / "version_0", gate()))
    assert [record["step"] for record in run.records] == [0, 20, 40]
    assert [record["verdict"] for record in run.gates] == ["passed"]
    assert run.points["train/loss"][0] == (0, 2.0)
    assert run.points["val/accuracy"][-1] == (55, pytest.approx(55 / 60))
    assert run.picture_steps == [0, 20, 40]
    assert {data[:4] for data in run.pictures({0, 40}).values()} == {b"\x89PNG"}
    assert run.notes == []


def test_a_run_is_found_below_the_folder_that_is_named(tmp_path):
    three(tmp_path / "logs" / "version_0")
    assert read_run(tmp_path).folder == tmp_path / "logs" / "version_0"


def test_of_several_runs_the_newest_is_read_and_the_others_are_named(tmp_path):
    old, new = three(tmp_path / "version_0"), three(tmp_path / "version_1")
    os.utime(old / "audit.jsonl", (1, 1))
    run = read_run(tmp_path)
    assert run.folder == new
    assert run.notes == ["2 runs lie in this folder; this is the newest. Others: version_0."]


@pytest.mark.parametrize("tail", ['{"schema": 1, "kind": "aud', '{"schema"', "null\n", "\x00\x00\n"])
def test_a_line_that_was_cut_off_is_left_out_and_said(tmp_path, tail):
    run = read_run(three(tmp_path, tail=tail))
    assert len(run.records) == 3
    assert run.notes == ["one line of audit.jsonl could not be read: the run was killed while it wrote."]


@pytest.mark.parametrize("cut", [1, 9, 40, 300])
def test_an_event_file_that_was_cut_off_is_read_up_to_there(tmp_path, cut):
    three(tmp_path)
    path = next(tmp_path.glob("events.*"))
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_run(tmp_path).points["train/loss"]
    path.write_bytes(path.read_bytes() + b"\x05\x00\x00\x00\x00\x00\x00\x00crc_what?crc_")
    assert read_run(tmp_path).points["train/loss"]


def test_a_step_audited_again_after_a_resume_counts_once(tmp_path):
    run = read_run(write(tmp_path, audit(0), audit(20), audit(20, seed=7)))
    assert [(record["step"], record["seed"]) for record in run.records] == [(0, 0), (20, 7)]


def test_pictures_written_as_files_and_curves_as_csv(tmp_path):
    write(tmp_path, audit(0), audit(20), curves=False, pictures=False)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "step_000020.png").write_bytes(b"png")
    (tmp_path / "images" / "step_final.png").write_bytes(b"not ours")
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,0,2.5\n0,5,\n0,10,nonsense\n0,15,1.5\n0,")
    run = read_run(tmp_path)
    assert run.picture_steps == [20]
    assert run.pictures({20}) == {20: b"png"}
    assert run.points["train/loss"] == [(0, 2.5), (15, 1.5)]


def test_curves_and_pictures_of_another_logger(tmp_path):
    write(tmp_path / "csv" / "version_0", audit(0), curves=False, pictures=False)
    other = write(tmp_path / "tb" / "version_0", audit(0))
    (other / "audit.jsonl").unlink()
    for run in (read_run(tmp_path), read_run(tmp_path / "csv" / "version_0", [other])):
        assert "train/loss" in run.points
        assert run.picture_steps == [0]


def test_without_records_the_loggers_averages_are_shown(tmp_path):
    write(tmp_path, curves=False)
    (tmp_path / "audit.jsonl").unlink()
    text = "epoch,step,audit/psnr/rgap,audit/chance\n0,0,20.0,12.0\n0,50,30.0,12.0\n"
    (tmp_path / "metrics.csv").write_text(text)
    run = read_run(tmp_path)
    assert [record["metrics"]["audit/psnr/rgap"] for record in run.records] == [20.0, 30.0]
    assert "There is no audit.jsonl" in run.notes[0]


def test_where_nothing_was_audited_one_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no audited run"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_run(tmp_path / "missing")
    (tmp_path / "metrics.csv").write_text(json.dumps("epoch"))
    with pytest.raises(FileNotFoundError, match="holds no audited run"):
        read_run(tmp_path)
