"""What `benchmarks/limit_study.py` found: rank correlations, a scatter, and every case above the line.

    python benchmarks/limit_study_figure.py OUTPUT [--figure docs/which-number.svg]

Reads OUTPUT/limit_study*.csv. A case counts by the means, over its images, of the limit and of the best attack's PSNR;
its attack *succeeded* where either says so (`attacks.ending`). Prints
Spearman's and Kendall's rank correlation of the two with 95 % intervals by bootstrap over networks, by group,
and the images on which an attack got more than 1 dB above a limit that was solved to its end.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

COLOURS = {
    "tanh": "#1f5fa8", "relu": "#d8622a", "pooling": "#2b8a3e", "batch_normalisation": "#7048a8", "residual": "#b02a55"
}  # fmt: skip
DRAWS = 500
ABOVE = 1.0  # dB over the line from which a case is listed
EXACT = 54.2  # dB: rounded to 8 bits it is the stored image, and a PSNR beyond says nothing of leakage


@dataclass(frozen=True)
class Found:
    """A row of the study, read."""

    case: int
    network: int
    family: str
    trained: bool
    batch: int
    noise: float
    solved: bool
    converged: bool
    succeeded: bool
    granted: bool
    chance: np.ndarray
    limit: np.ndarray
    best: np.ndarray

    @classmethod
    def of(cls, row: dict[str, str]) -> "Found":
        """Of a row, by column, that was measured."""
        names = ("chance", "limit", "joint", "cosine")
        chance, limit, joint, cosine = (np.array(row[name].split(), dtype=float) for name in names)
        best = np.maximum(*(found if len(found) else np.full_like(limit, -np.inf) for found in (joint, cosine)))
        return cls(
            int(row["case"]), int(row["network"]), row["family"], int(row["trained"]) > 0, int(row["batch"]),
            float(row["noise"]), row["limit_solved"] == "True", row["joint_converged"] == "True",
            row["succeeded"] == "True", bool(row["granted"]), chance, limit, best,
        )  # fmt: skip


def read(folder: Path) -> list[Found]:
    """Every case that was measured."""
    rows = [row for path in sorted(folder.glob("limit_study*.csv")) for row in csv.DictReader(path.open())]
    failed = [row for row in rows if row["error"]]
    for row in failed:
        print(f"case {row['case']} was not measured: {row['error']}")
    return [Found.of(row) for row in rows if not row["error"]]


def intervals(cases: Sequence[Found], clip: float | None = None) -> str:
    """Both rank correlations with their intervals; networks are drawn, each with all of its cases.

    Args:
        cases: At least a few.
        clip: Decibels beyond which all count alike; None for none.
    """
    points = np.array([[case.limit.mean(), case.best.mean()] for case in cases])
    points = points if clip is None else np.minimum(points, clip)
    groups = defaultdict(list)
    for place, case in enumerate(cases):
        groups[case.network].append(place)
    random, members = np.random.default_rng(0), list(groups.values())
    draws = [np.concatenate([members[k] for k in random.integers(0, len(members), len(members))]) for _ in range(DRAWS)]
    said = []
    for measure in (spearmanr, kendalltau):
        drawn = [measure(*points[chosen].T)[0] for chosen in draws]
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        said.append(f"{measure(*points.T)[0]:.2f} [{low:.2f}, {high:.2f}]")
    return " | ".join(said)


def groups(cases: Sequence[Found]) -> dict[str, list[Found]]:
    """The cases of which a correlation is told."""
    kinds: dict[str, Callable[[Found], bool]] = {
        "all": lambda x: True,
        "limit solved to its end": lambda x: x.solved,
        "the attack succeeded": lambda x: x.succeeded and x.solved,
        "it did, and the limit granted nothing": lambda x: x.succeeded and x.solved and not x.granted,
        "it says that it converged": lambda x: x.converged and x.solved,
        "it did not succeed": lambda x: not x.succeeded and x.solved,
        **{name: lambda x, name=name: x.family == name and x.solved for name in COLOURS},
        "untrained": lambda x: not x.trained and x.solved,
        "trained": lambda x: x.trained and x.solved,
        **{f"B = {b}": lambda x, b=b: x.batch == b and x.solved for b in sorted({x.batch for x in cases})},
        **{f"noise {s:g}": lambda x, s=s: x.noise == s and x.solved for s in sorted({x.noise for x in cases})},
    }
    found = {title: [case for case in cases if keep(case)] for title, keep in kinds.items()}
    return {title: chosen for title, chosen in found.items() if len(chosen) >= 8}


def table(cases: Sequence[Found]) -> None:
    """Print a line a group, as Markdown."""
    print(
        "| cases | number | Spearman | Kendall | Spearman, all above 54.2 dB alike | best − limit, dB: median, worst |"
    )
    print("|---|---|---|---|---|---|")
    for title, chosen in groups(cases).items():
        gap = np.array([min(x.best.mean(), EXACT) - min(x.limit.mean(), EXACT) for x in chosen])
        clipped = intervals(chosen, EXACT).partition(" | ")[0]
        told = f"{np.median(gap):+.1f}, {gap.min():+.1f}"
        print(f"| {title} | {len(chosen)} | {intervals(chosen)} | {clipped} | {told} |")


def above(cases: Sequence[Found]) -> None:
    """Print the images on which an attack came out above the line."""
    images = [(case, i) for case in cases if case.solved for i in range(len(case.limit))]
    over = [(case.best[i] - case.limit[i], case, i) for case, i in images if case.best[i] - case.limit[i] > ABOVE]
    print(f"\n{len(over)} of {len(images)} images more than {ABOVE:g} dB above a limit that was solved to its end")
    for excess, case, i in sorted(over, key=lambda x: -x[0]):
        print(
            f"case {case.case} image {i}: {case.family}, trained {case.trained}, B = {case.batch}, noise {case.noise:g}"
            f": limit {case.limit[i]:.1f}, attack {case.best[i]:.1f} ({excess:+.1f}), a guess {case.chance[i]:.1f}"
        )


def draw(cases: Sequence[Found], path: Path) -> None:
    """Each case's best attack against its limit, with the line y = x."""
    import matplotlib

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "limit study"}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.add_subplot()
    for family, colour in COLOURS.items():
        for filled in (True, False):
            chosen = [x for x in cases if x.family == family and x.solved and x.succeeded == filled]
            x, y = (np.clip([getattr(c, name).mean() for c in chosen], 5, 160) for name in ("limit", "best"))
            label = family.replace("_", " ") if filled else None
            axes.scatter(
                x, y, 18, facecolors=colour if filled else "none", edgecolors=colour, linewidths=1, label=label
            )
    axes.plot([5, 160], [5, 160], color="#555", linewidth=1)
    axes.axline((EXACT, 5), (EXACT, 160), color="#bbb", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="limit, dB", ylabel="best attack, dB", xlim=(8, 165), ylim=(8, 165))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([10, 20, 30, 40, 60, 100, 150], [10, 20, 30, 40, 60, 100, 150])
        axis.set_ticks([], minor=True)
    axes.legend(title="filled: the attack succeeded", frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    cases = read(options.output)
    print(f"{len(cases)} cases of {len({x.network for x in cases})} networks\n")
    table(cases)
    above(cases)
    draw(cases, options.figure or options.output / "limit_study.svg")


if __name__ == "__main__":
    main()
