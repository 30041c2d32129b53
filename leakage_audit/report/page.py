"""The report as one HTML file that needs nothing else: no network, no script."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from leakage_audit.report import course, sections

PICTURES, BYTES = 8, 10_000_000  # shown at most, and what they may weigh before they are written as text

NARROW = 440  # pixels: two columns of images, which are as good as readable on a telephone without scrolling
PAIRED = 440  # pixels: two such pictures, each with its words beside it, stand side by side


def choose(report: Mapping[str, Any], steps: Sequence[int]) -> list[int]:
    """Which pictures are shown: that of the verdict, the first, the last, and some evenly between, by step."""
    worst = (report["verdict"]["worst"] or {}).get("step")
    wanted = [step for step in steps if step == worst] + [*steps[:1], *steps[-1:]]
    gaps = PICTURES - 1
    wanted += [steps[round(k * (len(steps) - 1) / gaps)] for k in range(gaps + 1)] if steps else []
    return sorted(list(dict.fromkeys(wanted))[:PICTURES])


def page(report: Mapping[str, Any], pictures: Mapping[int, bytes], config: str | None = None) -> str:
    """The whole page.

    Args:
        report: As `model.build` makes it.
        pictures: PNG data by step.
        config: Name of the fit's configuration file, for the section on how to reproduce.
    """
    worst = (report["verdict"]["worst"] or {}).get("step")
    order = sorted(pictures, key=lambda step: (step != worst, step))
    shown = _affordable({step: pictures[step] for step in order})
    charts = course.charts(report)
    first = f'<figure class="card">{_image(shown[worst], f"step {worst}")}</figure>' if worst in shown else ""
    found = "".join([sections.verdict(report), sections.gates(report), sections.attacks(report)])
    parts = [
        _header(report),
        f'<div class="first"><div>{found}</div>{first}</div>',
        sections.section("The course of the fit", f'<div class="charts">{"".join(charts)}</div>') if charts else "",
        _gallery(report, dict(sorted(shown.items()))),
        sections.layers(report),
        sections.problems(report),
        sections.assumptions(report),
        sections.again(report, config),
        sections.glossary(),
        f"<footer>{escape(report['generator'])}, {_when(report['written'])}. In numbers: report.json.</footer>",
    ]
    style = (files("leakage_audit.report") / "page.css").read_text(encoding="utf-8")
    title = f"{report['verdict']['headline']}: {report['run']['name']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _header(report: Mapping[str, Any]) -> str:
    run = report["run"]
    said = [f"<b>Leakage report</b> {escape(run['name'])}"]
    said += [f"began {escape(_when(run['began']))}"] if run["began"] else []
    said += [f"last audit at step {run['last_step']}, {escape(_when(run['last_audit']))}"] if run["last_audit"] else []
    return f"<header>{''.join(f'<span>{x}</span>' for x in said)}</header>"


def _when(time: str) -> str:
    return time.replace("T", " ").removesuffix("+00:00") + " UTC"


def _affordable(pictures: Mapping[int, bytes]) -> dict[int, bytes]:
    """As many from the front as fit into the page."""
    kept, weight = {}, 0
    for step, data in pictures.items():
        weight += len(data)
        if weight <= BYTES:
            kept[step] = data
    return kept


def _gallery(report: Mapping[str, Any], pictures: Mapping[int, bytes]) -> str:
    worst = (report["verdict"]["worst"] or {}).get("step")
    if not pictures or list(pictures) == [worst]:  # the only one stands beside the verdict
        return ""
    told = {audit["step"]: audit["attacks"] for audit in report["audits"]}
    failed = {audit["step"]: audit["no_result"] for audit in report["audits"]}
    figures = []
    for step, data in pictures.items():
        said = [f"{escape(name)} {sections.word(x['word'])}" for name, x in told.get(step, {}).items()]
        said += [f"{escape(name)}: no result, {escape(why)}" for name, why in failed.get(step, {}).items()]
        caption = f"<figcaption><b>Step {step}</b>{''.join(f'<span>{x}</span>' for x in said)}</figcaption>"
        figures.append(f'<figure class="card">{_image(data, f"step {step}")}{caption}</figure>')
    says = "<p>Each true image above what every attack made of it.</p>"
    pairs = " pairs" if max(_size(data)[0] for data in pictures.values()) <= PAIRED else ""
    return sections.section("The images", f'{says}<div class="pictures{pairs}">{"".join(figures)}</div>')


def _size(data: bytes) -> tuple[int, int]:
    """Width and height, where a PNG has them."""
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    return width, height


def _image(data: bytes, about: str) -> str:
    """A picture as large as it was drawn, so that its captions can be read; a wide one scrolls on a narrow screen."""
    width, height = _size(data)
    encoded = base64.b64encode(data).decode()
    image = (
        f'<img alt="True images above their reconstructions, {about}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{encoded}">'
    )
    if width <= NARROW:
        return image
    return f'<div class="wide" tabindex="0" role="region" aria-label="Picture, {about}">{image}</div>'
