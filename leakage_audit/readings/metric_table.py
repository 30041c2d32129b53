"""The table of metrics: one row a logged number. Everything that shows, limits or documents a number reads it here.

Loggers, TensorBoard's page and tag descriptions, gate, the report's charts, numbers and glossary and
docs/metrics.md are all driven by `METRICS`. A new metric is a function of evaluations and a row.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from leakage_audit.readings import extraction
from leakage_audit.readings.evaluation import Evaluation
from leakage_audit.scores.metrics import PSNR_CAP

Read = Callable[[Sequence[Evaluation]], Mapping[str, float]]


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: As it is logged; `<attack>` and `<layer>` stand for what there is of them.
        unit: Behind the number; empty for counts and shares.
        worse: Which way more leaks; `neither` where the number says nothing of leakage. A gate limits only what leaks
            more when it is higher.
        description: One sentence, also TensorBoard's description of the tag.
        read: Finds the numbers, by what stands for the placeholder (`""` without one); None where an audit's frame
            or a gate logs it.
        chart: Title of the chart that shows it over the fit, in TensorBoard's page and the report.
        term: Its name in the report's glossary; None leaves it out.
        unknown: What it counts as for callbacks that monitor it while an audit has no result: the worst there is.
    """

    name: str
    unit: str
    worse: Literal["higher", "lower", "neither"]
    description: str
    read: Read | None = None
    chart: str | None = None
    term: str | None = None
    unknown: float | None = None

    @property
    def placeholder(self) -> str | None:
        """`attack`, `layer` or None."""
        found = re.search("<(.*)>", self.name)
        return found[1] if found else None

    @property
    def pattern(self) -> str:
        """A regular expression that its names match from their beginning, as TensorBoard's layouts take it."""
        return re.sub("<.*>", ".*", self.name) + "$"

    @property
    def key(self) -> str:
        """Its name in `report.json`."""
        return self.name.removeprefix("audit/")

    def of(self, what: str = "") -> str:
        """The logged name for an attack or a layer.

        Example::

            >>> PSNR.of("joint")
            'audit/psnr/joint'
        """
        return re.sub("<.*>", lambda _: what, self.name)

    def names(self, **found: Iterable[str]) -> list[str]:
        """All logged names, given the attacks (`attack=`) and layers (`layer=`) that there are."""
        return [self.of(what) for what in (found.get(self.placeholder, ()) if self.placeholder else ("",))]

    def matches(self, name: str) -> bool:
        """Whether a logged name is one of this metric's."""
        return fnmatchcase(name, re.sub("<.*>", "*", self.name))


SHARES = "Share of the images that are recognisable"
LEAKAGE, EQUATIONS = "PSNR above a guess", "c(M) and joint deficiency, 0 is worst"

LIMIT = Metric(
    "audit/limit", "dB", "higher",
    "PSNR that the gradient determines of the image of which it determines most, whoever attacks; missing where it was "
    "not solved to its end. Below recognisable, the images are protected.",
    extraction.limit, chart=LEAKAGE, term="limit", unknown=PSNR_CAP,
)  # fmt: skip
LIMIT_OTHERS_KNOWN = Metric(
    "audit/limit_others_known", "dB", "higher",
    "The same for an attacker who knows the other images of the batch.",
    extraction.limit_others_known, chart=LEAKAGE, term="limit, others known", unknown=PSNR_CAP,
)  # fmt: skip
LIMIT_MEAN = Metric(
    "audit/limit_mean", "dB", "higher",
    "PSNR that the gradient determines, averaged over the images; missing where it was not solved to its end.",
    extraction.limit_mean, chart="PSNR, mean of the images", term="limit, mean of the images", unknown=PSNR_CAP,
)  # fmt: skip
DETERMINED = Metric(
    "audit/recognisable_limit", "", "higher",
    "Share of the images that the gradient determines recognisably, whoever attacks; missing where the limit was not "
    "solved to its end.",
    extraction.determined, chart=SHARES, term="determined", unknown=1.0,
)  # fmt: skip
GAP = Metric(
    "audit/gap", "dB", "neither",
    "Limit less the best attack's PSNR, both up to exact, for the image where it is largest: how much the attacks may "
    "have missed.",
    extraction.gap, chart="Gap between limit and attacks", term="gap",
)  # fmt: skip
PSNR = Metric(
    "audit/psnr/<attack>", "dB", "higher",
    "PSNR (peak 1) of the image of which the attack got most; missing where the attack did not end by itself.",
    extraction.psnr, chart=LEAKAGE, term="PSNR", unknown=PSNR_CAP,
)  # fmt: skip
PSNR_MEAN = Metric(
    "audit/psnr_mean/<attack>", "dB", "higher",
    "PSNR averaged over the images; missing where the attack did not end by itself on one of them.",
    extraction.psnr_mean, chart="PSNR, mean of the images", unknown=PSNR_CAP,
)  # fmt: skip
PSNR_LEAST = Metric(
    "audit/psnr_least/<attack>", "dB", "higher",
    "PSNR of the image of which the attack got least; missing where it did not end by itself on one of them.",
    extraction.psnr_least, chart="PSNR, the image that leaked least", unknown=PSNR_CAP,
)  # fmt: skip
RECOGNISABLE = Metric(
    "audit/recognisable/<attack>", "", "higher",
    "Share of the images that the attack got back recognisably; missing where it did not end by itself on one of them.",
    extraction.recognisable, chart=SHARES, term="recognisable, share of the images", unknown=1.0,
)  # fmt: skip
SSIM = Metric(
    "audit/ssim/<attack>", "", "higher",
    "Structural similarity, 1 is identical, of the image of which the attack got most.",
    extraction.ssim, chart="SSIM", unknown=1.0,
)  # fmt: skip
CHANCE = Metric(
    "audit/chance", "dB", "neither",
    "PSNR of a guess without a gradient for the image that leaked most; leakage is what lies above it.",
    extraction.chance, chart=LEAKAGE, term="a guess",
)  # fmt: skip
C = Metric(
    "audit/c", "", "higher",
    "c(M), the layers' missing equations, weighted (Chen & Campbell 2022); 0, the worst: every layer determines its "
    "input.",
    extraction.c, chart=EQUATIONS, term="c(M)",
)  # fmt: skip
JOINT_DEFICIENCY = Metric(
    "audit/joint_deficiency", "", "higher",
    "Rank less unknowns of all equations in the image at once; 0, the worst: they determine it. Found by the joint "
    "attack, else counted from shapes: at most this.",
    extraction.joint_deficiency, chart=EQUATIONS, term="joint deficiency",
)  # fmt: skip
LAYER_DEFICIENCY = Metric(
    "audit/layer/<layer>/deficiency", "", "higher",
    "Rank less unknowns of the layer's system; 0, the worst: it determines the layer's input.",
    extraction.layer_deficiency, chart="Deficiency by layer",
)  # fmt: skip
LAYER_CONDITION = Metric(
    "audit/layer/<layer>/condition", "", "lower",
    "How much rounding the solution of the layer's system amplifies.",
    extraction.layer_condition, chart="Condition by layer",
)  # fmt: skip
EPSILON = Metric(
    "audit/epsilon", "", "higher",
    "ε of (ε, δ)-differential privacy that the training has spent so far, by Opacus' accountant; only with "
    "`PrivateTraining`.",
    chart="Privacy budget spent", term="ε",
)  # fmt: skip
ROBUSTNESS = "Images that came back under DP-SGD, and the most that its noise allows"
ROBUSTNESS_MEASURED = Metric(
    "audit/robustness/measured", "", "neither",
    "Share of the images audited so far of which an attack came 6 dB nearer than the guess does on average; only under "
    "DP-SGD.",
    chart=ROBUSTNESS, term="came back",
)  # fmt: skip
ROBUSTNESS_BOUND = Metric(
    "audit/robustness/bound", "", "neither",
    "The highest share of them that one step's noise allows, whoever attacks: reconstruction robustness, from the "
    "share that the guess brings so near.",
    chart=ROBUSTNESS, term="reconstruction robustness",
)  # fmt: skip
SECONDS = Metric("audit/seconds", "s", "neither", "What the audit cost.")
VIOLATIONS = Metric(
    "audit/violations", "", "neither",
    "How many numbers were above their gate's limits at this audit; missing where none was, but some are unknown.",
)  # fmt: skip

METRICS: tuple[Metric, ...] = (
    LIMIT, LIMIT_OTHERS_KNOWN, LIMIT_MEAN, DETERMINED, GAP, PSNR, PSNR_MEAN, PSNR_LEAST, RECOGNISABLE, SSIM, CHANCE, C,
    JOINT_DEFICIENCY, LAYER_DEFICIENCY, LAYER_CONDITION, EPSILON, ROBUSTNESS_MEASURED, ROBUSTNESS_BOUND, SECONDS,
    VIOLATIONS,
)  # fmt: skip
OF_ATTACKS = tuple(metric for metric in METRICS if metric.placeholder == "attack")
OF_LIMITS = (LIMIT, LIMIT_OTHERS_KNOWN, LIMIT_MEAN, DETERMINED)


def read_all(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Every number of the table that the evaluations give, by its logged name; what is not finite is left out."""
    return {
        metric.of(what): value
        for metric in METRICS
        if metric.read is not None
        for what, value in metric.read(evaluations).items()
        if abs(value) < float("inf")
    }


def metric_of(name: str) -> Metric | None:
    """The row of a logged name.

    Example::

        >>> metric_of("audit/psnr/joint").unit
        'dB'
    """
    return next((metric for metric in METRICS if metric.matches(name)), None)


def as_markdown() -> str:
    """The table as docs/metrics.md has it."""
    lines = ["| logged | unit | more leaks when | what it is | charts |", "|---|---|---|---|---|"]
    for x in METRICS:
        lines.append(f"| `{x.name}` | {x.unit} | {x.worse} | {x.description} | {x.chart or ''} |")
    return "\n".join(lines) + "\n"
