"""The map's fields: what was not measured, or not solved, is never drawn as a low share."""

import importlib.util
import math
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "frontier_figure.py"
SPEC = importlib.util.spec_from_file_location("frontier_figure", PATH)
figure = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(figure)


def row(limit="", solved="", limit_seen="", best="", seen="", itself="True"):
    limits = {"limit": limit, "limit_solved": solved, "limit_seen": limit_seen}
    return limits | {"best": best, "seen": seen, "ended_itself": itself}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, (math.nan, "missing")),
        (row(), (math.nan, "–")),
        (row("12 14", "True", "0.0"), (0.0, "13")),  # solved: that the images are protected is known
        (row("12 14", "False", "0.0"), (math.nan, "?")),
        (row("12 20", "False", "0.5"), (0.5, ">16")),
        (row("12 20", "False", "0.5", "30 30", "1.0"), (1.0, ">30")),  # what was got is determined
        (row("200 200", "True", "1.0"), (1.0, "99")),
    ],
    ids=["not measured", "no result", "solved", "not solved", "at least", "what was got", "capped"],
)
def test_the_limit(cell, expected):
    share, text = figure.told(cell, "limit", "limit_seen")
    assert text == expected[1]
    assert share == pytest.approx(expected[0], nan_ok=True)


def test_an_attack_without_a_result_has_no_share():
    share, text = figure.told(row("40", "True", "1.0"), "best", "seen")
    assert math.isnan(share)
    assert text == "–"
    assert figure.told(row("40", "True", "1.0", "20 10", "0.5"), "best", "seen") == (0.5, "15")


def test_an_attack_whose_time_was_up_got_at_least_so_much():
    assert figure.told(row("", "", "", "30 20", "1.0", "False"), "best", "seen") == (1.0, ">25")
    share, text = figure.told(row("", "", "", "9 9", "0.0", "False"), "best", "seen")
    assert math.isnan(share)
    assert text == "?"


def test_one_or_two_images_of_two_classes_are_distinct():
    cells = {("mlp", "0", "distinct", 2): row("40", "True", "1.0")}
    assert figure.cell_of(cells, ("mlp", "0", "two classes"), 2)["limit"] == "40"
    assert figure.cell_of(cells, ("mlp", "0", "two classes"), 4) is None
