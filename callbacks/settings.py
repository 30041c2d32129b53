"""What a user may ask of an audit, checked when it is asked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from leakage_audit.attacks import build
from leakage_audit.attacks.base import Attack
from leakage_audit.callbacks.capture.gradient_check import CheckOptions
from leakage_audit.callbacks.capture.model_copy import Forward
from leakage_audit.measures.limit import LimitOptions
from leakage_audit.measures.noisy_limit import NoisyLimitOptions
from leakage_audit.measures.security import SecurityOptions
from leakage_audit.observation import Loss, as_tuple
from leakage_audit.options import Checked


@dataclass(frozen=True)
class AuditOptions(Checked):
    """Tolerances and limits of an audit; those of its attacks are the attacks' own.

    Attributes:
        security_share: Of an image's time, for c(M) at most, so that attacks come to their turn; what does not fit is
            counted from shapes.
        unknown_share: Of a limit's time, for the whole batch at once, the others unknown: it is the harder problem.
        announced_after: Seconds that an audit may take before a progress bar of its own announces it.
        grace: Share of `max_seconds` by which an audit in the background may overstay before its process is killed;
            ten seconds more are for what a process does before and after it counts.
        gradient_check: What rounding can explain between the step's gradient and the recomputed one.
        security: How the layers' systems are ranked for c(M).
        limit: How what the gradient determines is computed; what a defence adds counts as its noise.
        noisy_limit: Which weights of the prior are tried against a defence's noise; its own `limit` is the one above.
    """

    security_share: float = 0.25
    unknown_share: float = 0.7
    announced_after: float = 3.0
    grace: float = 0.5
    gradient_check: CheckOptions = field(default_factory=CheckOptions)
    security: SecurityOptions = field(default_factory=SecurityOptions)
    limit: LimitOptions = field(default_factory=lambda: LimitOptions(uncertainty=False))
    noisy_limit: NoisyLimitOptions = field(default_factory=NoisyLimitOptions)

    def __post_init__(self) -> None:
        self.check(share=("security_share", "unknown_share"), not_negative=("announced_after", "grace"))


@dataclass(frozen=True)
class Settings:
    """The arguments of `LeakageAudit` that say what an audit does; documented there.

    Raises:
        ValueError: If one is out of its range.
    """

    attacks: Mapping[str, Attack]
    gradient: str
    probe: str
    samples: int
    max_seconds: float | None
    max_memory_gb: float | None
    limit: float
    grant_labels: bool
    on_error: str
    background: bool
    seed: int
    optimizer: int
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    value_range: tuple[float, float]
    forward: Forward | None
    loss: str | Loss | None
    unpack: str | Callable[[Any], tuple[Tensor, Tensor]] | None
    options: AuditOptions = field(default_factory=AuditOptions)

    def __post_init__(self) -> None:
        _one_of("gradient", self.gradient, ("sample", "step"))
        _one_of("probe", self.probe, ("fixed", "batch"))
        _one_of("on_error", self.on_error, ("warn", "raise"))
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        for name in ("max_seconds", "max_memory_gb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or None, got {value}")
        if not 0 <= self.limit < 1:
            raise ValueError(f"limit is a share of max_seconds, at least 0 and below 1, got {self.limit}")
        if self.optimizer < 0:
            raise ValueError(f"optimizer is an index counted from 0, got {self.optimizer}")
        for name in ("mean", "std"):
            values = as_tuple(getattr(self, name) if getattr(self, name) is not None else 1.0)
            if not all(math.isfinite(value) and (value > 0 or name == "mean") for value in values):
                must = "finite" if name == "mean" else "positive"
                raise ValueError(f"{name} must be {must}, got {getattr(self, name)}")
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be (lowest, highest), got {self.value_range}")

    @property
    def knowledge(self) -> str:
        """What the attacker is assumed to have, in words."""
        what = (
            "single images, network in eval mode"
            if self.gradient == "sample"
            else "the whole optimiser step before clipping, network in train mode, dropout masks unknown"
        )
        labels = "labels granted" if self.grant_labels else "labels not granted"
        return f"{what}; weights, buffers, architecture, loss and normalisation known; {labels}"


def name_attacks(attacks: Sequence[str | Attack]) -> dict[str, Attack]:
    """The attacks by the name they are logged under: `cosine_tv:modern` as `cosine_tv-modern`, a file by its stem.

    Raises:
        ValueError: If a name is unknown, two attacks share one, or there is no list of them.
    """
    if isinstance(attacks, str):
        raise ValueError(f"attacks is a list, got {attacks!r}: write [{attacks}]")
    named: dict[str, Attack] = {}
    for given in attacks:
        attack = build(given) if isinstance(given, str) else given
        if not isinstance(attack, Attack):
            raise ValueError(f"attacks must be names or attacks, got {attack!r}")
        name = attack.name
        if isinstance(given, str) and ":" in given:
            name = f"{name}-{Path(given.partition(':')[2]).stem}"
        if name in named:
            raise ValueError(f"two attacks are called {name!r}: their numbers would be logged under one name")
        named[name] = attack
    return named


def find_tags(audits: Sequence[Settings]) -> list[str]:
    """What the names that several audits log begin with: `audit` for the first, else what one does otherwise than it.

    Args:
        audits: Those of one trainer, in order.
    """
    tags: list[str] = []
    for place, own in enumerate(audits):
        parts = [own.gradient] * (own.gradient != audits[0].gradient)
        parts += [f"optimizer{own.optimizer}"] * (own.optimizer != audits[0].optimizer)
        tag = "_".join(["audit", *parts])
        tags.append(tag if tag not in tags else f"{tag}_{place + 1}")
    return tags


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
