"""The limit beside the attacks: the measure's own figure, in the table, the CSV and the figure."""

import csv
from dataclasses import replace

import pytest
import torch
from doubles import experiment
from rich.console import Console

from leakage_audit.compare import compare, runner
from leakage_audit.compare.readings import limit_shown, shown_of, status_of
from leakage_audit.compare.store import Cell, Row
from leakage_audit.measures.limit import LimitOptions, reconstruction_limit
from leakage_audit.scores.metrics import Scores


def test_the_limit_is_the_measures_and_stands_beside_the_attacks(tmp_path):
    console = Console(record=True, width=120)
    asked = experiment(networks=["cnn2_v2"], indices=(1,), attacks=["cosine_tv"])
    found = compare(asked, tmp_path / "out", console=console)
    seen, truth, label = asked.observe("cnn2_v2", 1)
    own = reconstruction_limit(seen, truth[None], torch.tensor([label]), options=LimitOptions(uncertainty=False))
    (row,) = csv.DictReader(found.csv.read_text().splitlines())
    assert float(row["limit"]) == pytest.approx(own.psnr[0], abs=1e-9)
    assert row["limit_solved"] == str(own.solved)
    assert row["status"] in ("leaks", "open", "protected", "unknown")
    said = console.export_text()
    assert f"{own.psnr[0]:.1f}" in said
    assert "limit:" in said


def test_a_limit_that_was_cut_short_is_at_least(tmp_path, monkeypatch):
    def cut_short(*arguments, **settings):
        return replace(reconstruction_limit(*arguments, **settings), solved=False)

    monkeypatch.setattr(runner, "reconstruction_limit", cut_short)
    console = Console(record=True, width=120)
    compare(experiment(networks=["cnn2_v2"], indices=(1,), attacks=["dim"]), tmp_path / "out", console=console)
    assert "≥" in console.export_text()


def test_a_limit_that_there_was_no_time_for_is_no_number(tmp_path):
    console = Console(record=True, width=120)
    asked = experiment(networks=["cnn2_v2"], indices=(1,), attacks=["dim"], seconds=1e-6)
    found = compare(asked, tmp_path / "out", console=console)
    (row,) = csv.DictReader(found.csv.read_text().splitlines())
    assert row["limit"] == ""
    assert row["status"] == "unknown"


def test_what_was_cut_short_is_hatched_and_has_no_word():
    image, floor = torch.full((3, 12, 12), 0.5), Scores([0.05], [13.0], [61.1], [0.1], [0])
    row = Row("cnn2_v1", 1, 9, "dim", 10, 0.05, 13.0, 61.1, 0.1, limit=13.0, limit_solved=False, out_of_time=True)
    for shown, said in (shown_of(Cell(row, image, ""), floor), limit_shown(Cell(row, image, ""), floor)):
        assert bool(shown.isnan().all())
        assert "unrecognisable" not in said
    ended = replace(row, limit_solved=True, out_of_time=False)
    for shown, said in (shown_of(Cell(ended, image, ""), floor), limit_shown(Cell(ended, image, ""), floor)):
        assert torch.equal(shown, image)
        assert "unrecognisable" in said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "protected"),
        ({"limit_solved": False}, "unknown"),
        ({"limit": None}, "unknown"),
        ({"limit": 30.0, "limit_solved": False}, "open"),
        ({"psnr": 30.0, "out_of_time": True}, "leaks"),
    ],
)
def test_the_status_is_that_of_attacks_and_limit(changes, expected):
    row = Row("cnn2_v1", 1, 9, "dim", 10, 0.05, 13.0, 61.1, 0.1, limit=13.0, limit_solved=True)
    assert status_of([replace(row, **changes)], Scores([0.05], [13.0], [61.1], [0.1], [0])) == expected


def test_without_the_limit_there_is_no_column(tmp_path):
    console = Console(record=True, width=120)
    found = compare(experiment(networks=["cnn2_v2"], attacks=["dim"], limit=False), tmp_path / "out", console=console)
    assert "limit:" not in console.export_text()
    assert {row["limit"] for row in csv.DictReader(found.csv.read_text().splitlines())} == {""}
