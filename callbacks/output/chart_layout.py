"""TensorBoard's *Custom Scalars* page, made from the table of metrics."""

from typing import Any

from leakage_audit.readings.metric_table import LEAKAGE, METRICS, SSIM

OVER_LOSS = (LEAKAGE, SSIM.chart)
Layout = dict[str, dict[str, list[Any]]]


def layout() -> Layout:
    """The table's charts, leakage over loss first."""
    charts: dict[str, list[str]] = {}
    for metric in METRICS:
        if metric.chart is not None:
            charts.setdefault(metric.chart, []).append(metric.pattern)
    leakage = {title: found for title, found in charts.items() if title in OVER_LOSS}
    equations = {title: found for title, found in charts.items() if title not in OVER_LOSS}
    fit = {"Loss": [r"^(?!audit/).*loss.*"], "Accuracy": [r"^(?!audit/).*acc.*"]}
    return {
        "Leakage over loss": {title: ["Multiline", found] for title, found in (leakage | fit).items()},
        "What the equations say": {title: ["Multiline", found] for title, found in equations.items()},
    }


LAYOUT = layout()
# What an audit shows by itself: what was proven, what is determined, what a guess scores, in one chart.
BY_DEFAULT: Layout = {"Leakage": {LEAKAGE: LAYOUT["Leakage over loss"][LEAKAGE]}}
