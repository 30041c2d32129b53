"""`report.json`: what a run's audits found; docs/report.schema.json.

`schema` grows by one whenever a field changes its meaning or goes; new fields may appear without.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from leakage_audit.report.records.audit_lines import LayerEntry, Number

SCHEMA = 1
Word = Annotated[
    Literal["unrecognisable", "silhouette", "recognisable", "exact"], "See leakage_audit/scores/severity.py."
]
StatusWord = Annotated[
    Literal["leaks", "protected", "open", "unknown"], "What is known; see leakage_audit/scores/reading.py."
]


class ImageNumbers(TypedDict):
    """One reconstruction."""

    psnr: Annotated[float, "Decibels, peak 1, within ±300."]
    ssim: Annotated[Number, "Null where it was not logged."]
    chance_psnr: Annotated[float, "What guessing without a gradient scores for the same image."]
    chance_ssim: Number
    word: Word


class AttackNumbers(ImageNumbers):
    """An attack at one audit: averages over the images, the word and `highest` of the image that gave most away."""

    highest: ImageNumbers
    lowest: NotRequired[Annotated[ImageNumbers, "The image that gave least away; where images are known."]]
    images: NotRequired[Annotated[int, "On which the attack ended by itself."]]
    recognisable: NotRequired[Annotated[int, "How many of them came back recognisably."]]


class AttackAtStep(AttackNumbers):
    """An attack at one audit, and when."""

    step: int


class FoundImage(ImageNumbers):
    """A reconstruction, whose and when."""

    step: int
    attack: str


class RunCounts(TypedDict):
    """The run and its audits, counted."""

    name: str
    began: Annotated[str | None, "Time of the first audit."]
    last_audit: Annotated[str | None, "Time of the last one."]
    last_step: int | None
    audits: Annotated[int, "That took place."]
    measurements: Annotated[int, "Of c(M) and the layers alone."]
    skipped: int
    seconds: Annotated[float, "That audits and measurements took together."]


class Verdict(TypedDict):
    """What the page says first."""

    word: Annotated[Word | None, "Of the image that gave most away in the whole run; null if there is no result."]
    status: Annotated[StatusWord | None, "Of the worst audit; null if nothing was attacked."]
    headline: str
    detail: str
    worst: FoundImage | None
    latest: Annotated[FoundImage | None, "The same of the last audit."]
    gates: Annotated[Literal["passed", "exceeded", "unjudged", "none"], "The worst of the gates' verdicts."]


class Violation(TypedDict):
    """The highest number above a limit."""

    name: str
    value: Number
    limit: Number
    step: int
    unknown: NotRequired[Annotated[str, "Why the number is not known."]]


class Check(TypedDict):
    """One limit of a gate."""

    name: Annotated[str, "A logged name, perhaps with *."]
    limit: Number
    state: Annotated[
        Literal["passed", "exceeded", "unjudged"], "Exceeded: above the limit at `patience` audits in a row."
    ]
    audits_above: int
    highest: Violation | None
    doubt: Annotated[str | None, "Why the number was unknown at the last audit; null if it was known."]


class Gate(TypedDict):
    """A LeakageGate."""

    verdict: Literal["passed", "exceeded", "unjudged"]
    action: str
    patience: int
    unknown: Annotated[str | None, "What an unknown number is: violate, warn or ignore."]
    checks: list[Check]


class AttackSummary(TypedDict):
    """An attack over the whole run."""

    name: Annotated[str, "As logged; with the kind of gradient behind it where the run has several."]
    word: Word
    audits: int
    worst: AttackAtStep
    latest: AttackAtStep
    settings: dict[str, Any]
    ended: Annotated[str | None, "How it ended the last time."]
    seconds: Annotated[Number, "On average, an observation."]
    out_of_time: Annotated[int, "How often its time limit ended it."]


class Assumptions(TypedDict):
    """What the attacker was assumed to know and how the audit read the module; each thing that occurred, once."""

    knowledge: list[str]
    gradient: list[str]
    probe: list[str]
    chance: list[str]
    seed: list[str]
    precision: list[str]
    ranks: list[str]
    assumed: list[str]


class Problem(TypedDict):
    """What could not be done."""

    what: Annotated[str, "An attack, `c`, or `audit` for one that was skipped."]
    reason: str
    times: int
    first_step: int


class AuditDigest(TypedDict):
    """One audit."""

    step: Annotated[int, "On the loggers' axis."]
    epoch: int | None
    kind: Literal["audit", "measure"]
    seconds: Number
    c: Annotated[Number, "c(M)."]
    joint_deficiency: Number
    metrics: Annotated[dict[str, Number], "Every logged name and its number; docs/metrics.md."]
    status: StatusWord | None
    no_result: Annotated[dict[str, str], "Attacks without a result, and why."]
    skipped: Annotated[str | None, "Why it did not take place."]
    attacks: Annotated[dict[str, AttackNumbers], "Those that ended by themselves."]


class Curve(TypedDict):
    """A number over the fit."""

    steps: list[int]
    values: list[float]


class Report(TypedDict):
    """What a run's audits found."""

    schema: Literal[1]
    generator: Annotated[str, "Name and version of what wrote the file."]
    written: Annotated[str, "When, ISO 8601, UTC."]
    run: RunCounts
    verdict: Verdict
    gates: list[Gate]
    attacks: Annotated[list[AttackSummary], "From the one that got most back to the one that got least."]
    layers: Annotated[list[LayerEntry], "At the last measurement, from the image up."]
    assumptions: Assumptions
    problems: list[Problem]
    notes: Annotated[list[str], "What was amiss with the run's files."]
    audits: list[AuditDigest]
    curves: Annotated[dict[str, Curve], "What else the fit logged, thinned to a few hundred points."]
    versions: dict[str, str]
