"""What an audit found, as logged numbers, as one line of `audit.jsonl`, and as a table to read.

The form of a line is `leakage_audit.report.records.audit_lines`, documented by docs/audit.schema.json; the numbers are
those of the table of metrics, docs/metrics.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from leakage_audit.readings.evaluation import (
    LIMIT,
    AttackOutcome,
    Evaluation,
    LimitOutcome,
    attack_names,
    audit_status,
    highest,
    image_status,
    no_results,
)
from leakage_audit.readings.extraction import short
from leakage_audit.readings.metric_table import SECONDS, read_all
from leakage_audit.readings.reading import shown_word
from leakage_audit.readings.several import sentences
from leakage_audit.report.records.audit_lines import SCHEMA, AttackEntry, LimitEntry
from leakage_audit.scores.metrics import Scores
from leakage_audit.scores.severity import most_severe, severities


def metrics(evaluations: Sequence[Evaluation], seconds: float) -> dict[str, float]:
    """The logged names and their numbers, as the table of metrics finds them."""
    return read_all(evaluations) | {SECONDS.name: seconds}


def most_severe_by_attack(evaluations: Sequence[Evaluation]) -> dict[str, str]:
    """By attack, the word of the image that gave most away; attacks without a result are left out."""
    found = {name: highest(evaluations, name) for name in attack_names(evaluations)}
    return {name: image.severity for name, image in found.items() if image is not None}


def describe(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The part of a record that the looks fill."""
    first = next((x.security for x in evaluations if x.security is not None), None)
    layers = [] if first is None else [asdict(layer) for layer in first.layers]
    for layer, name in zip(layers, short([x["name"] for x in layers]), strict=True):
        layer["name"] = name
    return {
        "status": str(audit_status(evaluations)),
        "no_result": {name: reason for name, (_, reason) in no_results(evaluations).items()},
        "c": None if first is None else first.c,
        **({"c_counted": first.counted} if first is not None and first.counted else {}),
        "layers": layers,
        "samples": [
            {
                "labels": evaluation.labels,
                "status": [str(image_status(evaluation, i)) for i in range(len(evaluation.labels))],
                "limit": _limit(evaluation.limit),
                "limit_others_known": _limit(evaluation.limit_others_known),
                "floor": {"psnr": evaluation.floor.psnr, "ssim": evaluation.floor.ssim},
                "attacks": {
                    name: _describe(outcome, evaluation.floor) for name, outcome in evaluation.outcomes.items()
                },
            }
            for evaluation in evaluations
        ],
        "problems": {name: problem for evaluation in evaluations for name, problem in evaluation.problems.items()},
    }


def _describe(outcome: AttackOutcome, floor: Scores) -> AttackEntry:
    result, scores = outcome.result, outcome.scores
    return {
        "settings": result.settings,
        "psnr": [*scores.psnr],
        "psnr_255": [*scores.psnr_255],
        "ssim": [*scores.ssim],
        "meaning": [shown_word(word, outcome.no_result) for word in severities(scores, floor)],
        "no_result": outcome.no_result,
        "order": scores.order,
        "mse": [*scores.mse],
        "seconds": result.seconds,
        "converged": result.converged,
        "succeeded": result.succeeded,
        "ended": result.ended,
        "residual": result.residual,
        "out_of_time": outcome.out_of_time,
    }


def _limit(found: LimitOutcome | None) -> LimitEntry | None:
    return None if found is None else {"psnr": [*found.psnr], "solved": found.solved, "granted": [*found.granted]}


@cache
def versions() -> dict[str, str]:
    """Of the libraries that a result depends on."""
    return {name: version(name) for name in ("leakage-audit", "torch", "lightning", "scipy")}


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line to the file, complete or not at all as far as the file system can promise it.

    Raises:
        OSError: If the file cannot be written.
    """
    head = {"schema": SCHEMA, "time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
    line = json.dumps(_plain(head | dict(record)), allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _plain(value: Any) -> Any:
    """Anything as what JSON can hold."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | bool | None) else str(value)


def summary(evaluations: Sequence[Evaluation], record: Mapping[str, Any]) -> str:
    """The audit as Markdown: what leaks, attack by attack and layer by layer, and what could not be done."""
    described, found = describe(evaluations), most_severe_by_attack(evaluations)
    head = f"optimiser step {record['optimizer_step']}, gradient of {record['knowledge']}"
    attacked = any({*evaluation.outcomes, *evaluation.problems} - {"c", LIMIT} for evaluation in evaluations)
    word = most_severe(list(found.values())).capitalize() if found else "No result"
    lines = [f"**{word}** at {head}" if attacked else head.capitalize(), ""]
    if attacked:
        status = audit_status(evaluations)
        lines += [f"Status: **{status}**: {status.meaning}.", ""]
        together = [f"- {sentence}" for sentence in sentences(evaluations)]
        lines += [*together, ""] if together else []
        lines += [
            "| image | attack | meaning | PSNR, dB | SSIM | chance, dB | limit, dB | seconds |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {i} | {name} | {shown_word(most_severe(severities(o.scores, evaluation.floor)), o.no_result)} "
            f"| {_scores(o)} | {_join(evaluation.floor.psnr, '.1f')} "
            f"| {_limit_text(evaluation.limit)} | {o.result.seconds:.1f} |"
            for i, evaluation in enumerate(evaluations, start=1)
            for name, o in evaluation.outcomes.items()
        ]
        lines += [  # an image that an attack did not come to is none that it failed on
            f"| {i} | {name} | {shown_word(None, reason)} | – | – | {_join(evaluation.floor.psnr, '.1f')} "
            f"| {_limit_text(evaluation.limit)} | – |"
            for i, evaluation in enumerate(evaluations, start=1)
            for name, reason in evaluation.problems.items()
            if name not in ("c", LIMIT)
        ]
        lines += ["", f"Chance is what guessing {record.get('chance', 'mid-grey')} scores.", ""]
    if described["layers"]:
        lines += [f"c(M) = {described['c']:.6g} (0: every layer determines its input)", ""]
        lines += [f"It is {described['c_counted']}.", ""] if "c_counted" in described else []
        lines += ["| layer | unknowns | equations | rank | deficiency | condition |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {x['name']} | {x['unknowns']} | {x['equations']} | {x['rank']} | {x['deficiency']} "
            f"| {'–' if x['condition'] is None else format(x['condition'], '.3g')} |"
            for x in described["layers"]
        ] + [""]
        lines += [f"- {x['name']}: {x['remark']}" for x in described["layers"] if x["remark"]]
    ended = {f"{name}: {o.result.ended}": None for evaluation in evaluations for name, o in evaluation.outcomes.items()}
    said = [*ended, *(f"{name}: {problem}" for name, problem in described["problems"].items())]
    return "\n".join(lines + [f"- {sentence}" for sentence in said])


def _scores(outcome: AttackOutcome) -> str:
    """PSNR and SSIM; of an attack that did not end by itself what it had reached, which is no more than that."""
    reached = "" if outcome.no_result is None else "at least "
    return f"{reached}{_join(outcome.scores.psnr, '.1f')} | {reached}{_join(outcome.scores.ssim, '.2f')}"


def _limit_text(found: LimitOutcome | None) -> str:
    if found is None:
        return "–"
    granted = f" ({', '.join(found.granted)} granted)" if found.granted else ""
    return ("" if found.solved else "at least ") + _join(found.psnr, ".1f") + granted


def _join(values: Sequence[float], form: str) -> str:
    """All of a few numbers, the range of many."""
    if len(values) > 4:
        return f"{min(values):{form}} to {max(values):{form}}"
    return ", ".join(format(value, form) for value in values)
