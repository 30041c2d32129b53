"""Small pictures with captions, laid out on a white sheet."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, RULE = (30, 32, 38), (100, 104, 114), (255, 255, 255), (205, 208, 214)
MARGIN = 8
BETWEEN = 16  # pixels between columns: captions wider than their pictures are not read as one
TEXT = 13  # pixels high: legible in TensorBoard's own size


@lru_cache
def font(size: int = TEXT, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def tile(pixels: np.ndarray, text: str, enlarge: int) -> Image.Image:
    """A picture, every pixel a square of `enlarge` × `enlarge`, above its caption; as wide as the wider of the two.

    Args:
        pixels: 8-bit `(H, W, 3)`.
        text: One or more lines, the first in ink and the rest fainter; may be empty.
        enlarge: Screen pixels along a pixel.
    """
    picture = Image.fromarray(pixels.repeat(enlarge, 0).repeat(enlarge, 1))
    lines = text.splitlines()
    width = max([picture.width] + [round(font().getlength(line)) + 2 for line in lines])
    height = picture.height + (4 + len(lines) * (TEXT + 5) if lines else 0)
    whole = Image.new("RGB", (width, height), PAPER)
    whole.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(whole)
    for k, line in enumerate(lines):
        at = (width / 2, picture.height + 4 + k * (TEXT + 5))
        draw.text(at, line, FAINT if k else INK, font(), anchor="ma")
    return whole


def hatched(height: int, width: int) -> np.ndarray:
    """Pixels `(H, W, 3)` of diagonal stripes, which nobody takes for a picture: here there is none."""
    across, down = np.arange(width)[None, :], np.arange(height)[:, None]
    stripes = (across + down) // max(1, min(height, width) // 8) % 2 == 0
    return np.where(stripes[..., None], np.array(RULE), np.array(PAPER)).astype(np.uint8)


def lay_out(
    rows: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[str] = (),
    labels: Sequence[tuple[str, str]] = (),
    title: str = "",
) -> Image.Image:
    """Lay pictures out in rows and columns.

    Args:
        rows: Pictures from left to right; None leaves a gap.
        columns: A heading for each column, or none.
        labels: For each row a name and a remark that stand at its left, or none. A name that is the one above again
            is left out; a new name begins below a rule.
        title: Stands above everything.
    """
    widths = [max(cell.width if cell else 0 for cell in column) for column in zip(*rows, strict=True)]
    widths = [
        max(w, round(font(bold=True).getlength(h))) for w, h in zip(widths, columns or [""] * len(widths), strict=True)
    ]
    heights = [max((cell.height for cell in row if cell), default=0) for row in rows]
    texts = [font(bold=True).getlength(name) for name, _ in labels] + [font().getlength(about) for _, about in labels]
    left = MARGIN + (round(max(texts)) + 2 * MARGIN if labels else 0)
    top = MARGIN + (TEXT + 2 * MARGIN if title else 0) + (TEXT + MARGIN if columns else 0)
    wide = left + sum(widths) + BETWEEN * (len(widths) - 1) + MARGIN
    width = max(wide, 2 * MARGIN + round(font(bold=True).getlength(title)))
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN * len(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, font(bold=True))
    lefts = [left + sum(widths[:k]) + BETWEEN * k for k in range(len(widths))]
    for heading, x, w in zip(columns, lefts, widths, strict=False):
        draw.text((x + w / 2, top - MARGIN), heading, INK, font(bold=True), anchor="ms")
    y = top
    for k, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if labels:
            new = k == 0 or labels[k][0] != labels[k - 1][0]
            if new and k:
                draw.line((MARGIN, y - MARGIN // 2, sheet.width - MARGIN, y - MARGIN // 2), RULE)
            draw.text((MARGIN, y + 2), labels[k][0] if new else "", INK, font(bold=True))
            draw.text((MARGIN, y + (TEXT + 7 if new else 2)), labels[k][1], FAINT, font())
        for cell, x, w in zip(row, lefts, widths, strict=True):
            if cell:
                sheet.paste(cell, (x + (w - cell.width) // 2, y))
        y += height + MARGIN
    return sheet
