"""A sweep as a picture and a page: accuracy against leak, one line a mechanism."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from leakage_audit.sweep.labels import label_apart
from leakage_audit.sweep.mechanisms import MECHANISMS, NONE
from leakage_audit.sweep.point import PointRow

SHAPES = "os^DvPXh<>"  # a mechanism each: colour alone does not tell them apart for everybody
SHOWN = (
    "mechanism",
    "strength",
    "accuracy",
    "ε",
    "c(M)",
    "c_ε(M)",
    "limit",
    "limit, batch",
    "attack",
    "guess",
    "status",
)


def pareto(rows: Sequence[PointRow]) -> list[PointRow]:
    """The points that no other one beats in both accuracy and leak.

    >>> a, b = PointRow("a", 1, accuracy=0.9, psnr=20.0), PointRow("b", 1, accuracy=0.8, psnr=25.0)
    >>> [row.mechanism for row in pareto([a, b])]
    ['a']
    """
    known = [
        (row, row.accuracy, found) for row in rows if row.accuracy is not None and (found := leak(row)) is not None
    ]

    def beaten(accuracy: float, leaked: float) -> bool:
        return any(a >= accuracy and b <= leaked and (a, b) != (accuracy, leaked) for _, a, b in known)

    return [row for row, accuracy, leaked in known if not beaten(accuracy, leaked)]


def leak(row: PointRow) -> float | None:
    """What counts as leaked: the limit, or an attack that went beyond it; None where neither is known."""
    return max((x for x in (row.limit, row.psnr) if x is not None), default=None)


def figure(rows: Sequence[PointRow], path: Path) -> None:
    """Accuracy against what the gradient determines (lines) and what the best attack got (crosses)."""
    drawing = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    marks: list[tuple[float, float, str, str]] = []
    crosses: list[tuple[float, float]] = []
    for i, mechanism in enumerate(dict.fromkeys(row.mechanism for row in rows)):
        mine = [(row, row.accuracy) for row in rows if row.mechanism == mechanism and row.accuracy is not None]
        colour = "black" if mechanism == NONE else f"C{(i - 1) % 10}"
        shape = "*" if mechanism == NONE else SHAPES[(i - 1) % len(SHAPES)]
        limits = [(row.limit, accuracy, row) for row, accuracy in mine if row.limit is not None]
        if limits:
            axes.plot([x for x, *_ in limits], [y for _, y, _ in limits], "-", color=colour, linewidth=1.2)
            axes.plot([], [], f"{shape}-", color=colour, label=mechanism)
        for limit, accuracy, row in limits:  # hollow where the limit is only "at least"
            axes.plot(limit, accuracy, shape, color=colour, markerfacecolor=colour if row.limit_solved else "white")
        for row, accuracy in mine:
            if row.psnr is not None:
                axes.plot(row.psnr, accuracy, "x", color=colour, alpha=0.6)
                crosses.append((row.psnr, accuracy))
            at = leak(row)
            if at is not None and mechanism != NONE:
                marks.append((at, accuracy, f"{row.strength:g}", colour))
    chances = [row.chance for row in rows if row.chance is not None]
    if chances:
        axes.axvline(max(chances), color="grey", linestyle=":", label="a guess")
    axes.set_xlabel("leak in dB: limit (joined; hollow: at least), best attack (crosses)")
    axes.set_ylabel("accuracy on held-out images")
    axes.legend(fontsize=8)
    drawing.draw_without_rendering()  # where points lie is known from here on
    label_apart(axes, marks, crosses)
    drawing.savefig(path, dpi=150)


def cells(row: PointRow) -> list[str]:
    """A row of the page, as `SHOWN` has it."""
    at_least = "" if row.limit_solved else "≥ "
    batch = "" if row.limit_unknown_solved else "≥ "
    who = {None: "", True: ", knows", False: ", does not"}[row.knows]
    attack = "–" if row.psnr is None else f"{row.psnr:.1f} ({row.attack}{who})"
    return [
        row.mechanism, f"{row.strength:g}", _number(row.accuracy, ".3f"), _number(row.epsilon, ".2f"),
        _number(row.c, ".6g"), _number(row.c_epsilon, ".1f"),
        "–" if row.limit is None else at_least + _number(row.limit, ".1f"),
        "–" if row.limit_unknown is None else batch + _number(row.limit_unknown, ".1f"),
        attack, _number(row.chance, ".1f"), row.problem or row.status,
    ]  # fmt: skip


def page(rows: Sequence[PointRow], about: dict, path: Path) -> None:
    """One HTML page: picture, table, what the strengths are, and the recipe."""
    best = pareto(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in SHOWN)
    body = "".join(
        f"<tr{' class=best' if row in best else ''}>" + "".join(f"<td>{escape(x)}</td>" for x in cells(row)) + "</tr>"
        for row in rows
    )
    names = dict.fromkeys(row.mechanism for row in rows if MECHANISMS.get(row.mechanism, MECHANISMS[NONE]).strength)
    strengths = "".join(f"<li><b>{escape(n)}</b>: {escape(MECHANISMS[n].strength)}</li>" for n in names)
    recipe = "".join(f"<li>{escape(str(k))}: {escape(str(v))}</li>" for k, v in about.items() if k != "images")
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><title>Defences</title><style>body{font:15px/1.5 sans-serif;"
        "max-width:70rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}td,th{padding:.2rem .6rem;"
        "border-bottom:1px solid #8884;text-align:left;white-space:nowrap}.best{background:#4a44}img{max-width:100%}"
        ":root{color-scheme:light dark}.wide{overflow-x:auto}li{overflow-wrap:anywhere}</style>"
        "<h1>What each defence costs and leaves</h1>"
        "<img src=pareto.png alt='Accuracy against leak, one line a mechanism'>"
        "<p>Green: no other point has both a higher accuracy and a lower leak. <b>limit</b>: PSNR that one image's "
        "shared gradient determines, whoever attacks (the other images known); <b>limit, batch</b>: of all attacked "
        "images averaged, none known. An attack is tried by who knows the defence and by who does not; the stronger "
        "counts. A low attack with a high limit protects nothing. ≥ is at least: a better attack may get more.</p>"
        f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"
        f"<h2>Strengths</h2><ul>{strengths}</ul><h2>Recipe</h2><ul>{recipe}</ul>"
        "</html>\n",
        encoding="utf-8",
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
