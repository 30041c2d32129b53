"""The course of a run in charts over the same steps: leakage beside loss and accuracy."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from leakage_audit.readings.metric_table import CHANCE, LEAKAGE, LIMIT, LIMIT_OTHERS_KNOWN, METRICS, SSIM
from leakage_audit.report.audits import leak
from leakage_audit.report.charts import Band, Line, chart
from leakage_audit.scores.severity import EXACT_PSNR, GAIN

CURVES = 4  # of the fit's own numbers in one chart
PSNR_LIMITS, SSIM_LIMITS = (-20.0, 80.0), (-0.2, 1.0)  # what is far below a guess needs no room


def charts(report: Mapping[str, Any]) -> list[str]:
    """PSNR, loss, SSIM, accuracy, c(M) and joint deficiency, as far as there are any."""
    fit = {name: list(zip(x["steps"], x["values"], strict=True)) for name, x in report["curves"].items()}
    steps = [audit["step"] for audit in report["audits"]] + [step for points in fit.values() for step, _ in points]
    if not steps:
        return []
    span = (min(steps), max(steps))
    found = []
    names = [attack["name"] for attack in sorted(report["attacks"], key=lambda attack: attack["name"])]
    chance = _chance(report)
    psnr, ssim = (_by_attack(report, names, what) for what in ("psnr", "ssim"))
    loss, accuracy = _named(fit, "loss"), _named(fit, "acc")
    for metric, style in ((LIMIT, "limit"), (LIMIT_OTHERS_KNOWN, "limit-known")):
        psnr += [Line(metric.term or "", points, style)] if (points := _logged(report, metric.name)) else []
    if psnr and chance:
        floor = median(value for _, value in chance)
        bands = [Band(name, floor + GAIN[name]) for name in ("silhouette", "recognisable")] + [
            Band("exact", EXACT_PSNR)
        ]
        psnr.append(Line("a guess", chance, "chance"))
        found.append(
            chart("PSNR, dB, of the image that leaked most", psnr, span, PSNR_LIMITS, bands, include=(floor + 12,))
        )
    found += [chart("Loss", loss, span)] if loss else []
    found += [chart("SSIM, of the image that leaked most", ssim, span, SSIM_LIMITS, include=(0.0, 1.0))] if ssim else []
    found += [chart("Accuracy", accuracy, span, include=(0.0, 1.0))] if accuracy else []
    return found + _others(report, span)


def _others(report: Mapping[str, Any], span: tuple[int, int]) -> list[str]:
    """The charts of the table of metrics that are not drawn from the attacks; those that do not move are left out."""
    lines: dict[str, list[Line]] = {}
    for metric in METRICS:
        if metric.chart is None or metric.chart in (LEAKAGE, SSIM.chart):
            continue
        names = dict.fromkeys(name for audit in report["audits"] for name in audit["metrics"] if metric.matches(name))
        by_attack = metric.placeholder == "attack"  # an attack has its colour of the charts above
        for name in (sorted(names) if by_attack else list(names))[:CURVES]:
            points = _logged(report, name)
            if len({value for _, value in points}) > 1:
                own = lines.setdefault(metric.chart, [])
                own.append(Line(metric.term or name.removeprefix("audit/"), points, f"s{len(own) % 6 + 1}"))
    return [chart(title, own, span) for title, own in lines.items()]


def _logged(report: Mapping[str, Any], name: str) -> list[tuple[int, float]]:
    return [(a["step"], a["metrics"][name]) for a in report["audits"] if a["metrics"].get(name) is not None]


def _chance(report: Mapping[str, Any]) -> list[tuple[int, float]]:
    """The guess for the image that leaked most; where no attack has a result, for that which is determined best."""
    found = []
    for audit in report["audits"]:
        attacked, logged = [x["highest"] for x in audit["attacks"].values()], audit["metrics"].get(CHANCE.name)
        if attacked or logged is not None:
            found.append((audit["step"], max(attacked, key=leak)["chance_psnr"] if attacked else logged))
    return found


def _by_attack(report: Mapping[str, Any], names: list[str], what: str) -> list[Line]:
    return [
        Line(name, points, f"s{i % 6 + 1}", _gaps(report, name))
        for i, name in enumerate(names)
        if (points := [*_of(report, name, what)])
    ]


def _gaps(report: Mapping[str, Any], attack: str) -> list[int]:
    """Steps at which an attack came to no result."""
    return [audit["step"] for audit in report["audits"] if attack in audit["no_result"]]


def _of(report: Mapping[str, Any], name: str, what: str) -> Iterator[tuple[int, float]]:
    for audit in report["audits"]:
        value = audit["attacks"].get(name, {}).get("highest", {}).get(what)
        if value is not None:
            yield audit["step"], value


def _named(fit: Mapping[str, list[tuple[int, float]]], part: str) -> list[Line]:
    """The fit's curves of that name; of one logged by step and by epoch, that by step."""
    names = [name for name in fit if part in name.lower()]
    names = [
        name for name in names if name.removesuffix("_epoch") + "_step" not in names or not name.endswith("_epoch")
    ]
    return [Line(name, fit[name], f"s{i + 1}") for i, name in enumerate(names[:CURVES])]
