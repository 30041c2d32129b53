"""A sweep in the terminal: a sentence for each finished point, and a table that fits 80 columns."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from leakage_audit.sweep.mechanisms import NONE
from leakage_audit.sweep.point import PointRow

OTHER = "*"  # beside an attack by who does not know the defence


def sentence(row: PointRow) -> str:
    """A finished point in one line.

    >>> sentence(PointRow("prune", 0.5, accuracy=0.813, limit=24.0, psnr=23.1, status="leaks"))
    'prune 0.5: accuracy 0.813, limit ≥ 24.0 dB, attack 23.1 dB, leaks'
    """
    said = [f"accuracy {row.accuracy:.3f}"] if row.accuracy is not None else []
    said += [f"ε {row.epsilon:.2f}"] if row.epsilon is not None else []
    said += [f"limit {_limit(row.limit, row.limit_solved)} dB"] if row.limit is not None else []
    said += [f"attack {row.psnr:.1f} dB"] if row.psnr is not None else []
    return f"{named(row)}: {', '.join([*said, row.problem or row.status])}"


def named(row: PointRow) -> str:
    """Mechanism and strength; of no defence the name alone."""
    return row.mechanism if row.mechanism == NONE else f"{row.mechanism} {row.strength:g}"


def table(rows: Sequence[PointRow]) -> RenderableType:
    """All points, in at most 80 columns where names are no longer than the package's own; problems stand below."""
    guesses = [row.chance for row in rows if row.chance is not None]
    several = len({row.attack for row in rows if row.attack}) > 1
    found = Table(
        box=SIMPLE_HEAD, show_edge=False, padding=0, title="What each defence costs and leaves",
        title_justify="left", caption=_caption(guesses, any(row.knows is False for row in rows)),
        caption_justify="left",
    )  # fmt: skip
    found.add_column("defence", no_wrap=True)
    for name in ("accuracy", "ε", "c(M)", "c_ε(M)", "limit", "limit, batch", "attack"):
        found.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    found.add_column("status", no_wrap=True)
    for row in rows:
        found.add_row(
            named(row), _number(row.accuracy, ".3f"), _number(row.epsilon, ".2f"), _number(row.c, ".4g"),
            _number(row.c_epsilon, ".4g"), _limit(row.limit, row.limit_solved),
            _limit(row.limit_unknown, row.limit_unknown_solved), _attack(row, several), row.status,
        )  # fmt: skip
    problems = [Text(f"{named(row)}: {row.problem}") for row in rows if row.problem]
    return Group(found, *problems) if problems else found


def _caption(guesses: Sequence[float], other: bool) -> str:
    said = ["Limits and attacks in dB; ≥: at least"]
    if guesses:
        span = f"{min(guesses):.1f}", f"{max(guesses):.1f}"
        said.append(f"a guess has {' to '.join(dict.fromkeys(span))}")
    said += [f"{OTHER}: got by who does not know the defence"] if other else []
    return "; ".join(said) + "."


def _attack(row: PointRow, several: bool) -> str:
    if row.psnr is None:
        return "–"
    return f"{row.psnr:.1f}" + (OTHER if row.knows is False else "") + (f" {row.attack}" if several else "")


def _limit(value: float | None, solved: bool) -> str:
    return "–" if value is None else f"{'' if solved else '≥ '}{value:.1f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(round(value, 3) + 0.0, form)  # no "-0"
