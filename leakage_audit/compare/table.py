"""A comparison as a table in the terminal, with the paper's figures beside ours."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table

from leakage_audit.compare.experiment import LIMIT, PRETRAINED
from leakage_audit.compare.store import Cell, Row
from leakage_audit.scores.metrics import PEAK_255

# Table 3 of Chen & Campbell 2022: PSNR in the paper's convention, average over CIFAR-10's training images 1 and 3.
# By network and whether it is pre-trained: R-GAP, DLG, CosineTV, Hybrid.
ATTACKS = ("rgap", "dlg", "cosine_tv", "hybrid")
TABLE_3 = {
    ("cnn2_v1", False): (197.0, 45.0, 54.5, 79.8),
    ("cnn2_v2", False): (62.7, -9.4, 53.0, 71.7),
    ("cnn3_v1", False): (60.9, 48.4, 52.0, 61.5),
    ("cnn3_v2", False): (61.0, 48.1, 51.3, 63.8),
    ("cnn3_v3", False): (181.2, -59.5, 54.5, 75.8),
    ("cnn3_v4", False): (61.8, -29.2, 51.0, 61.9),
    ("cnn4_v1", False): (60.8, 48.8, 51.8, 60.3),
    ("cnn4_v2", False): (62.0, 58.3, 54.8, 67.7),
    ("cnn4_v1", True): (54.9, -3.1, 49.2, 53.3),
    ("cnn4_v2", True): (62.8, 26.9, 49.7, 63.6),
}
CHANCE = "chance: what the data's mean image scores."
DETERMINED = " limit: what the gradient determines, to first order, under Joint's prior; no attack goes far beyond."
CUT_SHORT = " ≥: out of time or not solved to its end, so that more may be had."
TABLE_3_CAPTION = (
    " psnr_255 and Table 3: the paper's convention, 48.13 dB above the ordinary one;"
    " Table 3 averages CIFAR-10's images 1 and 3 at seed 10."
)


def paper_psnr_255(network: str, trained: bool, attack: str) -> float | None:
    """Table 3's figure for an attack, whatever its preset; None if it has none."""
    row = TABLE_3.get((network.removesuffix(PRETRAINED), trained or network.endswith(PRETRAINED)))
    base = attack.partition(":")[0]
    return row[ATTACKS.index(base)] if row is not None and base in ATTACKS else None


def results_table(
    cells: Mapping[tuple[str, int, str], Cell],
    names: Mapping[int, str],
    chance: Mapping[int, float],
    trained: bool = False,
    cifar10: bool = True,
    states: Mapping[tuple[str, int], str] = {},
) -> Table:
    """PSNR by network and image (rows) and attack (columns); below each network the mean, and Table 3 if it has it.

    Args:
        cells: Every network, image and attack, in the table's order.
        names: What to call each image.
        chance: For each image the PSNR of guessing the data's mean image.
        trained: Whether the weights come from a checkpoint.
        cifar10: Whether the images are of the kind that Table 3 is about.
        states: The status of each network and image, as far as it is known.
    """
    networks, indices, attacks = (list(dict.fromkeys(keys)) for keys in zip(*cells, strict=True))
    rows = [cell.row for cell in cells.values()]
    measured = any(row.limit is not None for row in rows)
    caption = CHANCE + (DETERMINED if measured else "")
    table = Table("network", "c(M)", "image", title="PSNR in dB", caption=caption, caption_justify="left")
    table.caption = caption = caption + (CUT_SHORT if any(_cut_short(row) for row in rows) else "")
    for name in ("chance", *attacks, *([LIMIT] if measured else [])):
        table.add_column(name, justify="right")
    if states:
        table.add_column("status")
    for network in networks:
        c = cells[network, indices[0], attacks[0]].row.c
        head = network, "" if c is None else f"{c:.6g}"
        for index in indices:
            scores = [_reached(cells[network, index, a].row) for a in attacks]
            limit = [_limit(cells[network, index, attacks[0]].row)] if measured else []
            state = [str(states[network, index])] if states else []
            table.add_row(*head, names[index], _score(chance[index]), *scores, *limit, *state)
            head = "", ""
        ours = {a: [cell.row.psnr for key, cell in cells.items() if key[::2] == (network, a)] for a in attacks}
        means = {a: _mean(scores) for a, scores in ours.items()}
        papers = {a: paper_psnr_255(network, trained, a) if cifar10 else None for a in attacks}
        if len(indices) > 1:
            table.add_row("", "", "mean", _score(fmean(chance.values())), *(_score(means[a]) for a in attacks))
        if any(paper is not None for paper in papers.values()):
            table.add_row("", "", "mean psnr_255", "", *(_score(means[a], PEAK_255) for a in attacks))
            table.add_row("", "", "in Table 3", "", *(_score(papers[a], none="") for a in attacks))
            table.caption = caption + TABLE_3_CAPTION
        table.add_section()
    return table


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def _score(psnr: float | None, offset: float = 0.0, none: str = "–") -> str:
    return none if psnr is None else f"{psnr + offset:.1f}"


def _reached(row: Row) -> str:
    return ("≥ " if row.out_of_time else "") + _score(row.psnr)


def _limit(row: Row) -> str:
    return ("" if row.limit_solved or row.limit is None else "≥ ") + _score(row.limit)


def _cut_short(row: Row) -> bool:
    return row.out_of_time or (row.limit is not None and not row.limit_solved)
