"""The options' defaults against the table that justifies them, docs/method/constants.md."""

import importlib
import math
import re
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[1] / "docs/method/constants.md"


def rows():
    """`(file, options, field, default)` of the options in the table whose default is a plain number."""
    for line in TABLE.read_text().splitlines():
        names, files, values = ([cell.strip() for cell in line.strip("|").split(" | ")] + [""] * 3)[:3]
        options = re.match(r"`(\w+Options)\.", names)
        if options is None:
            continue
        # Of two numbers for one name the second is that of `CGOptions`; tuples are no plain numbers.
        numbers = re.sub(r"\(.*?\)", "tuple", values).split(",")
        for name, value in zip(re.findall(r"`(?:\w*\.)?(\w+)`", names), numbers, strict=False):
            found = re.fullmatch(r"([\d.]+(?:e-?\d+)?)(?:/(\d+))?", value.strip())
            if found and name != "shares":
                yield files.split(", ")[0], options[1], name, float(found[1]) / float(found[2] or 1)


ROWS = list(rows())


def test_the_table_is_read():
    assert len(ROWS) > 40
    assert ("solvers/options", "LinearizationOptions", "widen", 2.0) in ROWS


@pytest.mark.parametrize(("file", "options", "field", "value"), ROWS, ids=str)
def test_a_default_is_the_one_that_was_measured(file, options, field, value):
    module = importlib.import_module("leakage_audit." + file.replace("/", "."))
    assert math.isclose(getattr(getattr(module, options)(), field), value)
