"""The lines of `audit.jsonl`: audits and measurements, and the verdicts of gates; docs/audit.schema.json.

Numbers that are not finite are null. A step that appears twice was audited again after a resume: the later line counts.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

SCHEMA = 1
Number = float | None
Word = str


class LimitEntry(TypedDict):
    """What the gradient determines of each image, whoever attacks."""

    psnr: Annotated[list[Number], "In dB, an image each."]
    solved: Annotated[bool, "Whether it was solved to its end; otherwise the numbers are lower bounds."]
    granted: NotRequired[
        Annotated[
            list[str], "Numbers that the gradient hides of the images and the attacker was told: contrast, a mean."
        ]
    ]


class FloorEntry(TypedDict):
    """What guessing without a gradient scores, an image each."""

    psnr: list[Number]
    ssim: list[Number]


class AttackEntry(TypedDict):
    """What one attack got back; lists hold one entry a reconstruction."""

    psnr: Annotated[list[Number], "In dB, peak 1."]
    ssim: list[Number]
    settings: NotRequired[dict[str, Any]]
    psnr_255: NotRequired[Annotated[list[Number], "In the paper's convention, peak 255."]]
    meaning: NotRequired[Annotated[list[Word], "A word of severity, or `no result: …`."]]
    no_result: NotRequired[Annotated[str | None, "Why the attack did not end by itself; null if it did."]]
    order: NotRequired[Annotated[list[int], "Which of the true images each was held against."]]
    mse: NotRequired[list[Number]]
    seconds: NotRequired[Number]
    converged: NotRequired[Annotated[bool, "Whether it came to its own end."]]
    succeeded: NotRequired[Annotated[bool, "Whether its gradient agrees as exactly as rounding and noise allow."]]
    ended: NotRequired[str]
    residual: NotRequired[Number]
    out_of_time: NotRequired[bool]


class SampleEntry(TypedDict):
    """One image, or for the gradient of a step its whole batch."""

    floor: FloorEntry
    attacks: dict[str, AttackEntry]
    labels: NotRequired[list[int]]
    status: NotRequired[Annotated[list[str], "What is known of each image: leaks, protected, open, unknown."]]
    limit: NotRequired[LimitEntry | None]
    limit_others_known: NotRequired[LimitEntry | None]


class LayerEntry(TypedDict):
    """A layer's system."""

    name: str
    unknowns: int
    equations: int
    rank: int
    deficiency: Annotated[int, "rank − unknowns."]
    weight: Annotated[Number, "In c(M)."]
    condition: Number
    remark: NotRequired[str | None]


class RobustnessEntry(TypedDict):
    """One distance of the reconstruction-robustness curve."""

    psnr: Annotated[Number, "In dB; nearer than this counts as reconstructed."]
    kappa: Annotated[Number, "Share of the audited images that the guess brings so near."]
    measured: Annotated[Number, "Share that the attacks brought so near."]
    bound: Annotated[Number, "The highest share that one step's noise allows, whoever attacks."]
    slack: Annotated[Number, "Two standard errors of `measured` under the bound."]


class AuditLine(TypedDict):
    """An audit, or a measurement of c(M) and the layers alone; one that did not take place has `skipped`."""

    step: Annotated[int, "On the loggers' axis."]
    schema: NotRequired[int]
    kind: NotRequired[Literal["audit", "measure"]]
    time: NotRequired[Annotated[str, "ISO 8601, UTC."]]
    optimizer_step: NotRequired[Annotated[int, "Counted from 0."]]
    epoch: NotRequired[int | None]
    gradient: NotRequired[Annotated[str, "`sample` or `step`."]]
    probe: NotRequired[Annotated[str, "`fixed` or `batch`."]]
    seed: NotRequired[int]
    versions: NotRequired[dict[str, str]]
    knowledge: NotRequired[Annotated[str, "What the attacker was assumed to know."]]
    threat_model: NotRequired[Annotated[str, "The same as a letter, A to E; docs/threat-model.md."]]
    assumed: NotRequired[Annotated[list[str], "How the audit read the module."]]
    chance: NotRequired[Annotated[str, "What guessing without a gradient means."]]
    max_seconds: NotRequired[Annotated[Number, "For the whole audit; null for no limit."]]
    max_memory_gb: NotRequired[Annotated[Number, "Likewise."]]
    precision: NotRequired[str]
    ranks: NotRequired[int]
    tag: NotRequired[Annotated[str, "What the names begin with, where the trainer has several audits."]]
    options: NotRequired[Annotated[dict[str, Any], "Tolerances and limits; those of an attack are in its settings."]]
    defence: NotRequired[Annotated[dict[str, Any], "Settings of the GradientDefence."]]
    verified: NotRequired[Annotated[dict[str, Any], "How the step's gradient compared with the recomputed one."]]
    metrics: NotRequired[Annotated[dict[str, Number], "Every logged name and its number; docs/metrics.md."]]
    status: NotRequired[Annotated[str, "That of the worst image: leaks, protected, open, unknown."]]
    no_result: NotRequired[Annotated[dict[str, str], "Attacks without a result, and why."]]
    c: NotRequired[Number]
    c_counted: NotRequired[Annotated[str, "Why c is a count of shapes and not of ranks found; absent if it is not."]]
    layers: NotRequired[list[LayerEntry]]
    samples: NotRequired[list[SampleEntry]]
    problems: NotRequired[Annotated[dict[str, str], "What could not be done, by attack or `c`."]]
    skipped: NotRequired[Annotated[str, "Why it did not take place."]]
    robustness: NotRequired[Annotated[list[RobustnessEntry], "Under DP-SGD, of all images audited so far in the fit."]]


class ViolationEntry(TypedDict):
    """A number above its limit, or unknown where that counts as much."""

    name: str
    value: Annotated[Number, "Null if unknown and nothing was reached."]
    limit: Number
    step: int
    unknown: NotRequired[Annotated[str, "Why the number is not known."]]


class GateLine(TypedDict):
    """The verdict of a LeakageGate."""

    kind: Literal["gate"]
    step: int
    schema: NotRequired[int]
    time: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    verdict: NotRequired[Literal["passed", "exceeded", "unjudged"]]
    action: NotRequired[Annotated[str, "`warn`, `stop` or `fail`."]]
    limits: NotRequired[Annotated[dict[str, Number], "Highest value allowed, by logged name, perhaps with *."]]
    patience: NotRequired[int]
    judged: NotRequired[list[str]]
    violations: NotRequired[list[ViolationEntry]]
    unknown: NotRequired[Annotated[str, "What an unknown number is: `violate`, `warn` or `ignore`."]]
    doubtful: NotRequired[Annotated[dict[str, str], "Limits whose number was unknown last, and why."]]
