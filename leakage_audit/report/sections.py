"""The page's sections, from the report's numbers to HTML."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from leakage_audit.readings.metric_table import METRICS, PSNR
from leakage_audit.readings.reading import NO_RESULT, PROOF, Status
from leakage_audit.report.audits import attacked, never_ended, of_batches, of_images
from leakage_audit.report.charts import number
from leakage_audit.scores.severity import EXACT_PSNR, GAIN, SEVERITIES, SHARE

Report = Mapping[str, Any]
REASONS = 12  # of what could not be done; more would bury the rest


def verdict(report: Report) -> str:
    """The verdict, what it rests on, and where it stands on the scale."""
    found = report["verdict"]
    scale = "".join(f'<li class="{"here" if word == found["word"] else ""}">{word}</li>' for word in SEVERITIES)
    return (
        f'<section class="card verdict tone-{_tone(found)}"><h1>{escape(found["headline"])}</h1>'
        f'<p>{escape(found["detail"])}</p><ul class="scale">{scale}</ul>{_tiles(report)}</section>'
    )


def _tone(found: Mapping[str, Any]) -> str:
    """The verdict's colour: a low word is none of safety, only the status *protected* is."""
    leaked = found["word"] in SEVERITIES[PROOF:]
    return (found["word"] if leaked else found["status"]) or "none"


def attacks(report: Report) -> str:
    """What each attack got back at its best and at last; why one has no result."""
    rows, last = [], (attacked(report["audits"]) or [{"no_result": {}}])[-1]["no_result"]
    several = of_batches(report)
    for attack in report["attacks"]:
        worst, latest = attack["worst"], attack["latest"]
        about = [attack["ended"]] if attack["ended"] else []
        times = attack["out_of_time"]
        about += [f"out of time {'once' if times == 1 else f'{times} times'}"] if times else []
        shown = f'{latest["highest"]["psnr"]:.1f} dB<span class="sub">{word(latest["word"])}</span>'
        missing = last.get(attack["name"])
        rows.append(
            [
                f'{escape(attack["name"])}<span class="sub">{escape("; ".join(about))}</span>',
                word(attack["word"]),
                f'{worst["highest"]["psnr"]:.1f} dB<span class="sub">step {worst["step"]}</span>',
                f"{worst['highest']['chance_psnr']:.1f} dB",
                "–" if worst["highest"]["ssim"] is None else f"{worst['highest']['ssim']:.2f}",
                *([_of_images(worst)] if several else []),
                shown if missing is None else _none(missing),
                "–" if attack["seconds"] is None else f"{attack['seconds']:.2g} s",
            ]
        )
    for name, why in never_ended(report["audits"]).items():
        rows.append([escape(name), _none(why), *["–"] * (3 + several), _none(last[name]) if name in last else "–", "–"])
    counted = ("recognisable",) if several else ()
    heads = ("attack", "at its best", "PSNR", "a guess", "SSIM", *counted, "last audit", "time an image")
    return section("What each attack got back", table(heads, rows)) if rows else ""


def _of_images(numbers: Report) -> str:
    """How many images came back, and the one of which least did."""
    least = numbers.get("lowest")
    below = "" if least is None else f'<span class="sub">least: {least["psnr"]:.1f} dB</span>'
    return of_images(numbers) + below


def layers(report: Report) -> str:
    """The layer table, from the image up."""
    rows = []
    for layer in report["layers"]:
        share = layer["rank"] / max(layer["unknowns"], 1)
        bar = f'<span class="bar"><i style="width:{100 * share:.0f}%"></i></span>'
        condition = layer.get("condition")
        rows.append(
            [
                f'{escape(layer["name"])}<span class="sub">{escape(layer.get("remark") or "")}</span>',
                *(f"{layer[name]:,}" for name in ("unknowns", "equations", "rank", "deficiency")),
                f"{100 * share:.0f} %{bar}",
                f"{layer['weight']:.2f}",
                "–" if condition is None else f"{condition:.2g}",
            ]
        )
    heads = ("layer", "unknowns", "equations", "rank", "deficiency", "determined", "weight in c(M)", "condition")
    says = (
        "<p>What the last measured gradient says of each layer's input: rank less than unknowns is what stays open.</p>"
    )
    return section("Layer by layer", says + table(heads, rows)) if rows else ""


def gates(report: Report) -> str:
    """Limits that the fit had to keep."""
    rows = []
    for gate in report["gates"]:
        for check in gate["checks"]:
            highest = check["highest"]
            reached = "never above" if check["state"] == "passed" else "never measured"
            if check["doubt"] is not None:
                reached = f'unknown<span class="sub">{escape(check["doubt"])}</span>'
            if highest is not None:
                why = f": {highest['unknown']}" if highest.get("unknown") else ""
                where = escape(f"{highest['name']}, step {highest['step']}{why}")
                reached = f'{"unknown" if why else number(highest["value"])}<span class="sub">{where}</span>'
            rows.append(
                [
                    escape(check["name"]),
                    _toned(check["state"]),
                    number(check["limit"]),
                    reached,
                    str(check["audits_above"]),
                    escape(f"{gate['action']}, patience {gate['patience']}"),
                ]
            )
    heads = ("limited", "state", "highest allowed", "highest above", "audits above", "action")
    return section("Gates", table(heads, rows)) if rows else ""


def assumptions(report: Report) -> str:
    """What the attacker was assumed to know, and how the audit read the module."""
    told = report["assumptions"]
    rows = [
        ("The attacker knows", told["knowledge"]),
        ("Gradient", told["gradient"]),
        (
            "Images",
            [{"fixed": "the same few all along", "batch": "new ones each time"}.get(x, x) for x in told["probe"]],
        ),
        ("A guess", told["chance"]),
        ("Read as", told["assumed"]),
        ("Precision", told["precision"]),
    ]
    inside = "".join(f"<dt>{name}</dt><dd>{escape('; '.join(said))}</dd>" for name, said in rows if said)
    return (
        section("What the attacker was assumed to know", f'<div class="card"><dl>{inside}</dl></div>') if inside else ""
    )


def problems(report: Report) -> str:
    """What could not be done, and what the reader should know of the run's files."""
    found = [escape(note) for note in report["notes"]]
    for problem in report["problems"][:REASONS]:
        often = f"{problem['times']} times, first at" if problem["times"] > 1 else "at"
        found.append(
            f"<b>{escape(problem['what'])}</b>: {escape(problem['reason'])} ({often} step {problem['first_step']})"
        )
    left = len(report["problems"]) - REASONS
    found += [f"and {left} other reasons, in report.json"] if left > 0 else []
    items = "".join(f"<li>{item}</li>" for item in found)
    return section("What could not be done", f'<div class="card"><ul class="plain">{items}</ul></div>') if items else ""


def again(report: Report, config: str | None) -> str:
    """How to run it again."""
    told = report["assumptions"]
    names = ", ".join(repr(attack["name"]) for attack in report["attacks"])
    parts = [f"attacks=[{names}]"] + [f"{x}={told[x][-1]!r}" for x in ("gradient", "probe") if told[x]]
    parts += [f"seed={told['seed'][-1]}"] if told["seed"] else []
    lines = [f"leakage-audit fit --config {config}"] if config else [f"LeakageAudit({', '.join(parts)})"]
    settings = [
        f"{attack['name']}: {json.dumps(attack['settings'])}" for attack in report["attacks"] if attack["settings"]
    ]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    inside = f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"
    rows = [("Attacks' settings", settings), ("Versions", [versions] if versions else [])]
    said = "".join(f"<dt>{a}</dt><dd>{'<br>'.join(f'<code>{escape(x)}</code>' for x in b)}</dd>" for a, b in rows if b)
    return section("How to reproduce", f'<div class="card">{inside}<dl>{said}</dl></div>')


def glossary() -> str:
    """What the words and numbers mean."""
    rows = [
        *((metric.term, metric.description) for metric in METRICS if metric.term),
        ("exact", f"PSNR at least {EXACT_PSNR:.1f} dB: rounded to 8 bits, it is the stored image"),
        (
            "recognisable",
            f"{GAIN['recognisable']:.0f} dB above the guess, or {SHARE['recognisable']:.0%} of the SSIM that it lacks",
        ),
        (
            "silhouette",
            f"{GAIN['silhouette']:.0f} dB above the guess, or {SHARE['silhouette']:.0%} of the SSIM that it lacks",
        ),
        ("unrecognisable", "less than that, to these attacks and to the eye; a better attack may see more"),
        *((str(status), status.meaning) for status in Status),
    ]
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in rows)
    return section("How to read this page", f'<div class="card"><dl>{inside}</dl></div>')


def section(title: str, inside: str) -> str:
    """A heading and what is under it."""
    return f"<section><h2>{title}</h2>{inside}</section>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, where the screen is narrow a list of each row's cells under their heads; cells are HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(map(_cell, heads, row)) + "</tr>" for row in rows)
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="card scroll" tabindex="0">{inside}</div>'  # scrolled by the keyboard, too


def _cell(head: str, inside: str) -> str:
    missing = ' class="missing"' if inside == "–" else ""
    return f'<td data-head="{escape(head)}"{missing}>{inside}</td>'


def word(name: str) -> str:
    """A word of the scale in its colour."""
    return _toned(name)


def _none(reason: str) -> str:
    return f'{NO_RESULT}<span class="sub">{escape(reason)}</span>'


def _toned(name: str) -> str:
    return f'<span class="word tone-{name}">{name}</span>'


def _tiles(report: Report) -> str:
    """The run in a handful of numbers."""
    run, found, last = report["run"], report["verdict"], _last(report)
    cells = []
    for title, numbers in (("Worst image", found["worst"]), ("Last audit", found["latest"])):
        if numbers is not None:
            shown = f"{numbers['psnr']:.1f} dB", word(numbers["word"])
            cells.append((title, *(shown[::-1] if numbers["word"] == "exact" else shown)))
        elif attacked(report["audits"]):
            cells.append((title, NO_RESULT, "no attack ended by itself"))
    if found["status"] is not None:
        cells.append(("Status", _toned(found["status"]), "of the worst audit"))
    if found["gates"] != "none":
        cells.append(("Gates", _toned(found["gates"]), f"of {len(report['gates'])}"))
    for metric in _LIMITED:
        if metric.name in last:
            shown = number(last[metric.name]), f"{metric.unit}, last audit" if metric.unit else "0 is worst"
            if metric.unit == PSNR.unit and last[metric.name] >= EXACT_PSNR:
                shown = word("exact"), " ".join(shown)
            cells.append((escape(metric.term or metric.name), *shown))
    skipped = f"{run['skipped']} skipped" if run["skipped"] else "none skipped"
    cells.append(("Audits", str(run["audits"]), f"{skipped}, {_duration(run['seconds'])}"))
    inside = "".join(f'<div class="tile"><span>{a}</span><b>{b}</b><span>{c}</span></div>' for a, b, c in cells)
    return f'<div class="tiles">{inside}</div>'


def _last(report: Report) -> dict[str, float]:
    """The latest of each number that not every audit has."""
    return {name: value for audit in report["audits"] for name, value in audit["metrics"].items() if value is not None}


_LIMITED = [metric for metric in METRICS if metric.term and metric.placeholder is None and metric.worse == "higher"]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s in all" if seconds < 120 else f"{seconds / 60:.0f} min in all"
