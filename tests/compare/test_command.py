import csv
from pathlib import Path

import pytest

from leakage_audit.cli.command_line import main

TABLE_3 = Path(__file__).parents[2] / "configs" / "table3.yaml"
FAST = ["--data=synthetic", "--image-size=12", "--scale=0.002"]


def test_options_win_over_those_of_the_config(tmp_path, capsys):
    given = [
        "compare",
        "--config",
        str(TABLE_3),
        *FAST,
        "--variants=cnn3_v2",
        "--indices=3",
        f"--output={tmp_path / 'out'}",
    ]
    assert main(given) == 0
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["index"]) for row in rows] == [("cnn3_v2", "3")] * 4
    assert [row["attack"] for row in rows] == ["rgap", "dlg:paper", "cosine_tv:paper", "hybrid"]
    assert all(row["psnr"] for row in rows)
    assert "figure.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale=0"], "scale must be positive"),
        (["--indices=1,99999"], "there is no image 99999"),
        (["--attacks=magic"], "unknown attack 'magic'"),
        (["--checkpoint=none.ckpt"], "no checkpoint at none.ckpt"),
        (["--pretrained=cnn4_v1=none.ckpt"], "no checkpoint at none.ckpt"),
        (["--pretrained=none.ckpt"], "pretrained must be name=value"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(options, message, tmp_path, capsys):
    assert main(["compare", "--config", str(TABLE_3), *FAST, f"--output={tmp_path / 'out'}", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_experiments_directory(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("all of it")
    assert main(["compare", "--variants=cnn2_v1", *FAST, f"--output={tmp_path}", "--attacks=rgap"]) == 2
    assert "holds no experiment" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "message"), [("just words", "Unexpected config: just words"), ("a: [", "Problems parsing config")]
)
def test_config_that_holds_no_options(text, message, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["compare", "--config", str(tmp_path / "bad.yaml")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert str(tmp_path / "bad.yaml") in said
