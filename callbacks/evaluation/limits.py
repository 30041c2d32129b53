"""What the gradient determines of each captured image, beside what the attacks proved: the other side of a reading."""

from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.callbacks.settings import AuditOptions
from leakage_audit.measures.limit import Limit, LimitOptions, Others
from leakage_audit.measures.noisy_limit import NoisyLimitOptions, noisy_limit
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY
from leakage_audit.readings.evaluation import LimitOutcome
from leakage_audit.runtime import Budget, OutOfTime


def measure_limits(
    seen: Observation, truth: Tensor, labels: Tensor, budget: Budget, options: AuditOptions | None = None
) -> tuple[LimitOutcome, LimitOutcome]:
    """The limit with the batch's other images unknown, and with them known; of a single image both are the same.

    Args:
        seen: What the attacker sees, with the noise that a defence put on it.
        truth: The true images `(B, C, H, W)` in the observation's value range.
        labels: Their classes `(B,)`.
        budget: Time limit and progress report.
        options: How it is computed, and how the time is shared out.

    Raises:
        ValueError: If the images are not scored by one class each, or the gradient holds nothing.
        OutOfTime: If the time was up before anything was known.
        OutOfMemory: If it would not fit in memory.
    """
    options = options or AuditOptions()
    how = replace(options.limit, uncertainty=bool(seen.noise) or options.limit.uncertainty)
    if seen.batch_size == 1:
        alone = _measured(seen, truth, labels, "unknown", how, options.noisy_limit, budget)
        return alone, alone
    unknown = _measured(seen, truth, labels, "unknown", how, options.noisy_limit, budget.share(options.unknown_share))
    return unknown, _measured(seen, truth, labels, "known", how, options.noisy_limit, budget.share())


def _measured(
    seen: Observation,
    truth: Tensor,
    labels: Tensor,
    others: Others,
    options: LimitOptions,
    weighed: NoisyLimitOptions,
    budget: Budget,
) -> LimitOutcome:
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError("the limit is computed for images of one class each; soft and multi-label targets are not")
    at = (truth.to(seen.device, seen.dtype), labels.to(seen.device))
    found: Limit = noisy_limit(seen, *at, others=others, options=replace(weighed, limit=options), budget=budget)
    if not found.solved and bool((found.images == GREY).all()):  # where every solver starts
        raise OutOfTime("the time was up before the limit was known")
    low, high = seen.value_range
    images = (found.images.detach().cpu() - low) / (high - low)
    # With a defence's noise what it adds in expectation counts, where it is known.
    return LimitOutcome(list(found.psnr), found.solved, images.to(torch.float32), found.granted)
