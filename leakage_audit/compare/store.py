"""The output directory: one file a finished cell, from which the table and the figure are made.

A cell is one attack on one image through one network. Its file appears in one piece, so that a run that was cut off
anywhere can go on, and several processes or machines can write side by side. `results.csv` is written along the way
for people to watch, and anew, in order, from the cells at the end.
"""

import csv
import io
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakage_audit.attacks.base import Reconstruction
from leakage_audit.scores.metrics import Scores


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`.

    Attributes:
        variant: The network's name.
        index: The image's.
        label: The class that the image was trained on as.
        attack: The attack's name, with its preset.
        seed: Of weights and attack.
        mse: Mean squared error; None, as the other scores, if the attack does not work on this network.
        psnr: In dB, peak 1.
        psnr_255: In the paper's convention, 48.13 dB higher.
        ssim: Structural similarity.
        seconds: Wall-clock time of the attack.
        c: c(M); None if the network has none.
        converged: Whether the attack came to its own end.
        succeeded: Whether its gradient agrees with the observed one.
        limit: PSNR in dB that the gradient determines, to first order; None where it was not computed.
        limit_solved: Whether that is known to the end; else it is at least this.
        out_of_time: Whether the time limit ended the attack, so that its scores are only what it had reached.
        status: What all attacks on the image and its limit add up to (`readings.reading`); known once all are done.
    """

    variant: str
    index: int
    label: int
    attack: str
    seed: int
    mse: float | None = None
    psnr: float | None = None
    psnr_255: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    c: float | None = None
    converged: bool = False
    succeeded: bool = False
    limit: float | None = None
    limit_solved: bool = False
    out_of_time: bool = False
    status: str | None = None

    def scored(self, scores: Scores, found: Reconstruction, out_of_time: bool = False) -> "Row":
        """This row with the scores of a single reconstruction."""
        single = {name: getattr(scores, name)[0] for name in ("mse", "psnr", "psnr_255", "ssim")}
        ending: dict[str, Any] = {
            "converged": found.converged,
            "succeeded": found.succeeded,
            "out_of_time": out_of_time,
        }
        return replace(self, **single, **ending, seconds=round(found.seconds, 3))


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Cell:
    """A row with what does not fit into a table.

    Attributes:
        row: The scores.
        image: The reconstruction `(C, H, W)`; None if there is none.
        ended: How the attack ended, or why it does not work here.
    """

    row: Row
    image: Tensor | None
    ended: str


class Folder:
    """An output directory that belongs to one identity; files appear in it in one piece.

    Args:
        folder: Made if it is missing.
        identity: What the results depend on; a directory that holds anything else is refused.

    Raises:
        ValueError: If the directory holds another experiment, or something that is no experiment.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder)
        manifest = self.folder / "experiment.json"
        wanted = json.loads(json.dumps(identity))
        if manifest.is_file():
            held = json.loads(manifest.read_text())
            differing = [key for key in sorted({*held, *wanted}) if held.get(key) != wanted.get(key)]
            if differing:
                about = "; ".join(f"{key} {_short(held.get(key))}, not {_short(wanted.get(key))}" for key in differing)
                raise ValueError(f"{self.folder} holds another experiment ({about}): give another output directory")
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no experiment: give another output directory")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not manifest.is_file():
            write_whole(manifest, (json.dumps(wanted, indent=2) + "\n").encode())


class Store(Folder):
    """A comparison's output directory; see `Folder`.

    Args:
        folder: Made if it is missing.
        identity: What the results depend on; a directory that holds anything else is refused.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        super().__init__(folder, identity)
        self.csv = self.folder / "results.csv"
        self._cells = self.folder / "cells"
        self._cells.mkdir(exist_ok=True)

    def _path(self, network: str, index: int, attack: str) -> Path:
        attack = re.sub(r"[:/\\]", "-", attack)  # a learned prior is named by its file
        return self._cells / f"{network}-{index}-{attack}.npz"

    def has(self, network: str, index: int, attack: str) -> bool:
        """Whether this cell is done."""
        return self._path(network, index, attack).is_file()

    def put(self, cell: Cell, listed: bool = True) -> None:
        """Keep a finished cell, and append its row to `results.csv` if it is to be listed there."""
        row, buffer = cell.row, io.BytesIO()
        image = np.zeros(0) if cell.image is None else cell.image.detach().cpu().numpy()
        np.savez(buffer, image=image, about=np.array(json.dumps({"row": asdict(row), "ended": cell.ended})))
        write_whole(self._path(row.variant, row.index, row.attack), buffer.getvalue())
        if not listed:
            return
        header = "" if self.csv.is_file() else lines_of([COLUMNS])
        with self.csv.open("a", newline="") as file:
            file.write(header + lines_of([_values(row)]))

    def get(self, network: str, index: int, attack: str) -> Cell:
        """A finished cell."""
        with np.load(self._path(network, index, attack)) as stored:
            image, about = stored["image"], json.loads(str(stored["about"]))
        return Cell(Row(**about["row"]), torch.from_numpy(image) if image.size else None, about["ended"])

    def write_csv(self, cells: Sequence[tuple[str, int, str]], states: Mapping[tuple[str, int], str] = {}) -> None:
        """Write `results.csv` anew from the finished ones of `cells`, in their order.

        Args:
            cells: Network, image and attack.
            states: The status of each network and image, as far as it is known.
        """
        rows = [replace(self.get(*cell).row, status=states.get(cell[:2])) for cell in cells if self.has(*cell)]
        write_whole(self.csv, lines_of([COLUMNS, *map(_values, rows)]).encode())


def _values(row: Row) -> list[Any]:
    return ["" if value is None else value for value in asdict(row).values()]


def lines_of(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in place in one piece."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_bytes(content)
    part.replace(path)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
