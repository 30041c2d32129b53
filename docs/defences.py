"""Puts a sweep's figures into docs/what-should-i-do.md, table and picture, so that all are of one version.

`leakage-audit sweep --config configs/sweep.yaml …`, then `python docs/defences.py OUTPUT`. The sentences below the
table are written by hand: read them again.
"""

import argparse
import csv
import shutil
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "what-should-i-do.md"
HEAD = "| defence | accuracy | ε | c_ε(M) | limit | limit, both unknown | attack, knows | does not | status |"


def line(row: dict[str, str]) -> str:
    """A row of `results.csv` as one of the table."""
    cells = [
        row["mechanism"] + ("" if row["mechanism"] == "none" else f" {float(row['strength']):g}"),
        _number(row["accuracy"], ".3f"), _number(row["epsilon"], ".2f"), _number(row["c_epsilon"], ".0f"),
        _limit(row, "limit"), _limit(row, "limit_unknown"),
        *(_number(row[name], ".1f") for name in ("psnr_knows", "psnr_not_knows")), row["status"],
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def table(rows: list[dict[str, str]]) -> str:
    """All of them below their head."""
    return "\n".join([HEAD, "|" + "---|" * (HEAD.count("|") - 1), *map(line, rows)])


def _number(value: str, form: str) -> str:
    return format(float(value), form) if value else "–"


def _limit(row: dict[str, str], name: str) -> str:
    return ("" if row[f"{name}_solved"] == "True" or not row[name] else "≥\u00a0") + _number(row[name], ".1f")


def main() -> None:
    """Put the table in the old one's place, and the picture beside the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    with (output / "results.csv").open(newline="", encoding="utf-8") as file:
        found = table(list(csv.DictReader(file)))
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = next(i for i, text in enumerate(lines) if text.startswith(HEAD))
    after = next(i for i, text in enumerate(lines) if i > first and not text.startswith("|"))
    PAGE.write_text("\n".join([*lines[:first], found, *lines[after:], ""]), encoding="utf-8")
    shutil.copy(output / "pareto.png", HERE / "what-should-i-do.png")


if __name__ == "__main__":
    main()
