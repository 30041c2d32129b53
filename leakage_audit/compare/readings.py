"""What a comparison's cells say of an image, so that an attack or a limit cut short is not taken for safety."""

from collections.abc import Sequence

import torch
from torch import Tensor

from leakage_audit.compare.experiment import LIMIT
from leakage_audit.compare.store import Cell, Row
from leakage_audit.figures import caption
from leakage_audit.readings.reading import UNKNOWN_LIMIT, Status, limit_says, limit_severity, shown_word, status
from leakage_audit.scores.metrics import Scores
from leakage_audit.scores.severity import most_severe, severity

OUT_OF_TIME = "out of time"


def word_of(row: Row, floor: Scores) -> str | None:
    """The severity of a reconstruction; None if the attack does not work on this network.

    Args:
        row: Of a single image.
        floor: What guessing scores on it.
    """
    if row.psnr is None or row.ssim is None:
        return None
    return severity(row.psnr, row.ssim, floor.psnr[0], floor.ssim[0])


def status_of(rows: Sequence[Row], floor: Scores) -> Status:
    """What all attacks on an image, `rows`, and its limit add up to."""
    words = [word for row in rows if (word := word_of(row, floor)) is not None]
    ended = not any(row.out_of_time for row in rows)
    limit = None if rows[0].limit is None else limit_severity(rows[0].limit, floor.psnr[0])
    return status(most_severe(words) if words else None, ended, limit, rows[0].limit_solved)


def shown_of(cell: Cell, floor: Scores) -> tuple[Tensor, str]:
    """An attack's picture, hatched where it has no result, and what stands below it."""
    row = cell.row
    assert cell.image is not None  # for mypy: image and scores come together
    assert row.psnr is not None
    word = shown_word(word_of(row, floor), OUT_OF_TIME if row.out_of_time else None)
    if row.out_of_time:
        return torch.full_like(cell.image, torch.nan), f"{row.attack}\n{word}"
    return cell.image, caption(row.attack, row.psnr, floor.psnr[0], row.ssim, word)


def limit_shown(cell: Cell, floor: Scores) -> tuple[Tensor, str]:
    """What the gradient determines, hatched where that is not known, and what stands below it."""
    assert cell.image is not None  # for mypy, likewise
    assert cell.row.limit is not None
    said = limit_says(cell.row.limit, floor.psnr[0], cell.row.limit_solved)
    image = cell.image if said != UNKNOWN_LIMIT else torch.full_like(cell.image, torch.nan)
    return image, f"{LIMIT}\n{said}\nwhat the gradient\ndetermines"
