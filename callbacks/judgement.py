"""One audit held against one limit of a gate: kept, above, or unknown. No failure is taken for safety."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from leakage_audit.callbacks.evaluation.results import Audit
from leakage_audit.readings.evaluation import LIMIT as NO_LIMIT
from leakage_audit.readings.metric_table import (
    DETERMINED,
    LIMIT,
    OF_LIMITS,
    PSNR,
    PSNR_LEAST,
    PSNR_MEAN,
    RECOGNISABLE,
    metric_of,
)

# What an attack's number cannot exceed, whatever it might have got with more time.
CEILINGS = {PSNR: LIMIT, PSNR_MEAN: LIMIT, PSNR_LEAST: LIMIT, RECOGNISABLE: DETERMINED}


@dataclass(frozen=True)
class Finding:
    """How one number stands to its limit.

    Attributes:
        pattern: The limit's name.
        name: The number's logged name.
        value: The number; what an attack without a result had reached, -inf if nothing.
        limit: Highest value allowed.
        state: Whether the limit is kept.
        reason: Why the number is unknown, or only a lower bound; empty where it is neither.
    """

    pattern: str
    name: str
    value: float
    limit: float
    state: Literal["kept", "above", "unknown"]
    reason: str = ""

    def __str__(self) -> str:
        """For a message."""
        if self.state == "unknown":
            return f"{self.name} is unknown ({self.reason}), which counts as above {self.limit:g}"
        at_least = "at least " if self.reason else ""
        return f"{self.name} = {at_least}{self.value:.4g} is above {self.limit:g}"

    def as_dict(self, step: int) -> dict[str, Any]:
        """As an entry of a gate's violations."""
        entry = {"name": self.name, "value": self.value, "limit": self.limit, "step": step}
        return entry | ({"unknown": self.reason} if self.state == "unknown" else {})


def may_be_limited(name: str) -> bool:
    """Whether a logged number grows with leakage; only such have a highest value allowed.

    Example::

        >>> may_be_limited("audit/psnr/joint"), may_be_limited("audit/gap")
        (True, False)
    """
    metric = metric_of(name)
    return metric is not None and metric.worse == "higher"


def judge(pattern: str, limit: float, audit: Audit) -> Iterator[Finding]:
    """Hold an audit that took place against a limit.

    Args:
        pattern: Logged name, may hold `*`.
        limit: Highest value allowed.
        audit: What was found.

    Yields:
        One finding a number; none where the audit has nothing to say of the limit (a measurement of c(M) alone).
    """
    known = [name for name in audit.metrics if fnmatchcase(name, pattern) and may_be_limited(name)]
    for name in known:
        value = audit.metrics[name]
        yield Finding(pattern, name, value, limit, "above" if value > limit else "kept")
    # An attack that has leaked an image is a result, and yet what needs all images may be missing.
    some = dict.fromkeys(audit.severities, (float("-inf"), "it did not end by itself on every image"))
    for metric, ceiling in CEILINGS.items():
        for attack, (reached, reason) in (some | audit.no_results).items():
            name = metric.of(attack)
            if attack == NO_LIMIT or not fnmatchcase(name, pattern) or name in audit.metrics:
                continue
            # Of a mean, the least or a share what one image reached proves nothing.
            if metric is PSNR and reached > limit:
                yield Finding(pattern, name, reached, limit, "above", reason)
            elif audit.metrics.get(ceiling.name, float("inf")) <= limit:
                yield Finding(pattern, name, reached, limit, "kept", reason)
            else:
                yield Finding(pattern, name, reached, limit, "unknown", reason)
    for metric in OF_LIMITS:
        if audit.status is not None and metric.name not in audit.metrics and fnmatchcase(metric.name, pattern):
            _, reason = audit.no_results.get(NO_LIMIT, (0.0, "the limit was not measured, or not solved to its end"))
            yield Finding(pattern, metric.name, float("-inf"), limit, "unknown", reason)
