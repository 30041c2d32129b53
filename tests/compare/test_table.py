import io

import pytest
import torch
from rich.console import Console

from leakage_audit.attacks.base import Reconstruction
from leakage_audit.compare.store import Cell, Row
from leakage_audit.compare.table import ATTACKS, TABLE_3, paper_psnr_255, results_table
from leakage_audit.models import VARIANTS
from leakage_audit.scores.metrics import score

# Table 3 in ordinary PSNR, as the project's notes on the method give it: R-GAP, DLG, CosineTV, Hybrid.
ORDINARY = {
    ("cnn2_v1", False): (148.9, -3.1, 6.4, 31.7),
    ("cnn2_v2", False): (14.6, -57.5, 4.9, 23.6),
    ("cnn3_v1", False): (12.8, 0.3, 3.9, 13.4),
    ("cnn3_v2", False): (12.9, 0.0, 3.2, 15.7),
    ("cnn3_v3", False): (133.1, -107.6, 6.4, 27.7),
    ("cnn3_v4", False): (13.7, -77.3, 2.9, 13.8),
    ("cnn4_v1", False): (12.7, 0.7, 3.7, 12.2),
    ("cnn4_v2", False): (13.9, 10.2, 6.7, 19.6),
    ("cnn4_v1", True): (6.8, -51.2, 1.1, 5.2),
    ("cnn4_v2", True): (14.7, -21.2, 1.6, 15.5),
}


def test_the_papers_figures_are_its_ordinary_ones_in_its_convention():
    assert TABLE_3.keys() == ORDINARY.keys()
    for key, row in TABLE_3.items():
        assert row == pytest.approx([value + 48.13 for value in ORDINARY[key]], abs=0.051)


def test_every_variant_has_its_row_and_presets_share_a_column():
    assert {name for name, trained in TABLE_3 if not trained} == VARIANTS.keys()
    assert paper_psnr_255("cnn3_v1", False, "hybrid:constrained") == TABLE_3["cnn3_v1", False][ATTACKS.index("hybrid")]
    assert paper_psnr_255("cnn3_v1", True, "hybrid") is None
    assert paper_psnr_255("cnn4_v1_pretrained", False, "rgap") == TABLE_3["cnn4_v1", True][0]
    assert paper_psnr_255("cnn3_v1", False, "joint") is None


DONE = Reconstruction(torch.zeros(1, 3, 4, 4), "a", {}, 1.0, True, "", 0.0)


def cells(attacks):
    found = {}
    for index, level in ((1, 0.1), (3, 0.01)):
        for attack in attacks:
            row = Row("cnn3_v1", index, 9, attack, 10, c=-2266.5)
            image = torch.full((3, 4, 4), level)
            scores = score(image, torch.zeros(3, 4, 4))
            found["cnn3_v1", index, attack] = Cell(
                row if attack == "failing" else row.scored(scores, DONE),
                None if attack == "failing" else image,
                "",
            )
    return found


def printed(table):
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_means_stand_beside_the_papers_in_its_convention():
    shown = printed(
        results_table(cells(["hybrid", "joint", "failing"]), {1: "1 truck", 3: "3 deer"}, {1: 12.0, 3: 14.0})
    )
    lines = {
        line.split("│")[3].strip(): [cell.strip() for cell in line.split("│")[4:-1]]
        for line in shown.splitlines()
        if "│" in line
    }
    assert lines["1 truck"] == ["12.0", "20.0", "20.0", "–"]
    assert lines["mean"] == ["13.0", "30.0", "30.0", "–"]
    assert lines["mean psnr_255"] == ["", "78.1", "78.1", "–"]
    assert lines["in Table 3"] == ["", "61.5", "", ""]
    assert "-2266.5" in shown


def test_other_images_have_no_figure_of_the_paper():
    shown = printed(results_table(cells(["hybrid"]), {1: "a", 3: "b"}, {1: 12.0, 3: 14.0}, cifar10=False))
    assert "Table 3" not in shown
