import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from doubles import Dim, data, experiment
from PIL import Image
from rich.console import Console

from leakage_audit import score
from leakage_audit.attacks import CosineTV
from leakage_audit.compare import COLUMNS, compare
from leakage_audit.models import build
from leakage_audit.observation import observe


def table(path):
    """The rows without the seconds, which no two runs share."""
    with Path(path).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_rows_are_in_order_and_hold_what_the_api_gives(tmp_path):
    results = compare(experiment(), tmp_path / "out")
    assert results.csv.read_text().splitlines()[0] == (
        "variant,index,label,attack,seed,mse,psnr,psnr_255,ssim,seconds,c,converged,succeeded,limit,limit_solved,"
        "out_of_time,status"
    )
    rows = table(results.csv)
    assert [(r["variant"], int(r["index"]), r["attack"]) for r in rows] == experiment().cells
    image, label, _ = data().image_at(3)
    torch.manual_seed(10)
    seen = observe(build("cnn2_v2", 10, 12).eval(), image, label, mean=0.5)
    expected = score(CosineTV(iterations=4, seed=10)(seen).images, image)
    last = rows[-1]
    assert float(last["psnr"]) == pytest.approx(expected.psnr[0], abs=1e-4)
    assert float(last["psnr_255"]) == pytest.approx(expected.psnr_255[0], abs=1e-4)
    assert float(last["ssim"]) == pytest.approx(expected.ssim[0], abs=1e-4)
    assert (int(last["label"]), int(last["seed"])) == (label, 10)
    assert float(last["c"]) < 0 == float(rows[0]["c"])


def test_broken_off_and_run_again_gives_the_same_table(tmp_path):
    whole = compare(experiment(), tmp_path / "whole")
    Dim.calls, Dim.breaks_at = 0, 3
    with pytest.raises(RuntimeError, match="broken off"):
        compare(experiment(), tmp_path / "parts", console=Console(file=(said := io.StringIO()), width=200))
    assert "Broken off" in said.getvalue()
    assert len(table(tmp_path / "parts" / "results.csv")) == 4
    assert not (tmp_path / "parts" / "figure.png").exists()
    Dim.calls, Dim.breaks_at = 0, None
    resumed = compare(experiment(), tmp_path / "parts")
    assert Dim.calls == 2
    assert table(resumed.csv) == table(whole.csv)
    assert resumed.figure.read_bytes() == whole.figure.read_bytes()


def test_a_table_cut_off_in_the_middle_of_a_line_is_mended(tmp_path):
    whole = compare(experiment(), tmp_path)
    text = whole.csv.read_text()
    whole.csv.write_text(text[:-20])
    again = compare(experiment(), tmp_path)
    assert again.csv.read_text() == text
    assert Dim.calls == 4


def test_figure_and_words(tmp_path):
    out = io.StringIO()
    results = compare(experiment(indices="one-per-class"), tmp_path, console=Console(file=out, width=160))
    assert len({index for _, index, _ in results.cells}) == 10
    words = out.getvalue()
    assert "cnn2_v1" in words
    assert "Table 3" not in words  # which is about other images
    assert str(results.figure) in words.replace("\n", "")
    with Image.open(results.figure) as figure:
        assert figure.height > 20 * 96


def test_an_attack_that_does_not_work_leaves_an_empty_row_and_says_why(tmp_path):
    out = io.StringIO()
    network = f"{__name__}.Residual"
    results = compare(
        experiment(networks=[network], attacks=["rgap", "dim"], indices=[0]),
        tmp_path,
        console=Console(file=out, width=200),
    )
    refused, worked = table(results.csv)
    assert refused["psnr"] == refused["mse"] == refused["c"] == ""
    assert refused["converged"] == "False"
    assert worked["psnr"] != ""
    assert "rgap does not work on" in out.getvalue()
    assert "residual" in out.getvalue()


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Linear(432, 10)

    def forward(self, x):
        return self.fc((x + self.conv(x).tanh()).flatten(1))


def test_time_limit(tmp_path):
    results = compare(experiment(networks=["cnn2_v1"], scale=1.0, seconds=0.2, indices=[1]), tmp_path)
    assert all(cell.row.seconds < 5 for cell in results.cells.values())


def test_global_random_stream_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    compare(experiment(), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from doubles import Dim, experiment
from leakage_audit.attacks import ATTACKS
from leakage_audit.compare import compare

if __name__ == "__main__":
    ATTACKS["dim"] = Dim
    compare(experiment(indices=(1, 3, 4)), {output!r}, devices=2)
"""


@pytest.mark.slow
def test_two_processes_give_the_same_table_as_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), output=str(tmp_path / "two")))
    subprocess.run([sys.executable, str(script)], check=True, timeout=300, capture_output=True)
    one = compare(experiment(indices=(1, 3, 4)), tmp_path / "one")
    assert table(tmp_path / "two" / "results.csv") == table(one.csv)
    assert (tmp_path / "two" / "figure.png").read_bytes() == one.figure.read_bytes()
    assert tuple(table(one.csv)[0]) == tuple(name for name in COLUMNS if name != "seconds")
