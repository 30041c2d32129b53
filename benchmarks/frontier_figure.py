"""The map of `benchmarks/frontier.py`: which share of a batch's images a gradient determines, and an attack gets.

    python benchmarks/frontier_figure.py OUTPUT [--figure docs/frontier.svg]

Reads OUTPUT/frontier.csv. A field's colour is the share of the images that are recognisable (`scores.severity`), on the
left at the limit and on the right as the best attack has them; its number the mean PSNR in dB, `>` where the time was
up before the end: then both are at least so much, and the field is dotted. Where no recognisable image had been found
when the time was up the field is hatched (`?`), and where there was nothing at all (`–`): no result, which is no
protection. What was not measured is said to be missing. Prints the same as a table.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

NAMES = {
    "cnn2_v1": "CNN2 V1", "cnn3_v1": "CNN3 V1", "lenet": "LeNet-5", "mlp": "MLP 3072-256-256-10",
    "vit": "vision transformer", "resnet18": "ResNet-18, batch statistics",
}  # fmt: skip
SIZES = (1, 2, 4, 8, 16, 32, 64)
CAP = 99.0  # dB: more is an exact image all the same


def read(path: Path) -> dict[tuple[str, str, str, int], dict[str, str]]:
    """The cells, by network, training, labels and batch size."""
    rows = list(csv.DictReader(path.open()))
    return {(r["network"], r["trained"], r["labels"], int(r["batch"])): r for r in rows}


def mean_of(row: dict[str, str], name: str) -> float | None:
    """Of a column of one number an image."""
    return float(np.mean([float(x) for x in row[name].split()])) if row.get(name) else None


def told(row: dict[str, str] | None, name: str, share: str) -> tuple[float, str]:
    """Share of recognisable images (NaN without a result) and what is written there."""
    if row is None:
        return float("nan"), "missing"
    value, best = mean_of(row, name), mean_of(row, "best")
    at_end = row["limit_solved" if name == "limit" else "ended_itself"] == "True"
    if name == "limit" and not at_end and best is not None and best > (value or 0):  # what was got is determined
        value, share = best, "seen"
    if value is None:
        return float("nan"), "–"
    if not at_end and float(row[share]) == 0:  # before it knew: a pale field would look like safety
        return float("nan"), "?"
    return float(row[share]), f"{'>' * (not at_end and value < CAP)}{min(value, CAP):.0f}"


def cell_of(
    cells: dict[tuple[str, str, str, int], dict[str, str]], line: tuple[str, str, str], size: int
) -> dict[str, str] | None:
    """A cell's row; one or two images of two classes are distinct."""
    return cells.get((*line, size)) or (cells.get((line[0], line[1], "distinct", size)) if size <= 2 else None)


def lines(cells: dict[tuple[str, str, str, int], dict[str, str]]) -> list[tuple[str, str, str]]:
    """The map's rows, in order: of each network new ones with distinct labels, and what else was measured."""
    found = {key[:3] for key in cells} | {(name, "0", "distinct") for name in NAMES}
    order = [(n, t, k) for n in NAMES for t in ("0", "200") for k in ("distinct", "two classes")]
    return [line for line in order if line in found]


def draw(cells: dict[tuple[str, str, str, int], dict[str, str]], path: Path) -> None:
    """Two maps beside each other."""
    import matplotlib

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "frontier", "hatch.linewidth": 0.4}
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    sizes, rows = SIZES, lines(cells)
    figure = Figure(figsize=(3.2 + 0.95 * len(sizes), 0.9 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = (("limit", "limit_seen", "what the gradient determines"), ("best", "seen", "what the best attack got"))
    for ax, (name, share, title) in zip(axes, panels, strict=True):
        for i, line in enumerate(rows):
            for j, size in enumerate(sizes):
                row = cell_of(cells, line, size)
                shown, text = told(row, name, share)
                empty = np.isnan(shown)
                colour = "white" if empty else matplotlib.colormaps["YlOrRd"](0.85 * shown)
                at_least = text.startswith(">") and shown < 1
                hatch = "////" if empty and row is not None else "..." if at_least else None
                ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="#999", linewidth=0.5, hatch=hatch))
                colour = "#999" if row is None else "white" if not empty and shown > 0.7 else "black"
                points = 4.5 if row is None else 7
                ax.text(j + 0.5, i + 0.52, text, ha="center", va="center", size=points, color=colour)
        ax.set(xlim=(0, len(sizes)), ylim=(len(rows), 0), title=title, xlabel="images in the batch")
        ax.set_xticks(np.arange(len(sizes)) + 0.5, [str(size) for size in sizes])
        ax.tick_params(length=0)
        ax.title.set_size(9)
    words = [f"{NAMES[n]}, {'trained' if t != '0' else 'new'}, {k}" for n, t, k in rows]
    axes[0].set_yticks(np.arange(len(rows)) + 0.5, words, size=7)
    shades = ListedColormap(matplotlib.colormaps["YlOrRd"](np.linspace(0, 0.85, 256)))
    scale = matplotlib.cm.ScalarMappable(Normalize(0, 1), shades)
    figure.colorbar(scale, ax=axes, label="share of images recognisable", shrink=0.6, format="{x:.0%}")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)


def table(cells: dict[tuple[str, str, str, int], dict[str, str]]) -> None:
    """Limit and best attack, mean dB and share of recognisable images, as Markdown."""
    sizes = SIZES
    print("| network | weights | labels | " + " | ".join(f"B = {size}" for size in sizes) + " |")
    print("|---" * (3 + len(sizes)) + "|")
    for line in lines(cells):
        fields = []
        for size in sizes:
            row = cell_of(cells, line, size)
            pair = [told(row, *names) for names in (("limit", "limit_seen"), ("best", "seen"))]
            shares = ", ".join("–" if np.isnan(share) else f"{share:.0%}" for share, _ in pair)
            fields.append(f"{pair[0][1]} / {pair[1][1]} ({shares})" if row else "missing")
        weights = "new" if line[1] == "0" else f"{line[1]} steps"
        print(f"| {NAMES[line[0]]} | {weights} | {line[2]} | " + " | ".join(fields) + " |")


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    cells = read(options.output / "frontier.csv")
    table(cells)
    draw(cells, options.figure or options.output / "frontier.svg")


if __name__ == "__main__":
    main()
