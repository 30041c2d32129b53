"""What the gradient determines of each captured image, beside what the attacks proved: the other side of a reading."""

import torch
from torch import Tensor

from leakage_audit.measures.limit import Limit, LimitOptions, Others
from leakage_audit.measures.noisy_limit import NoisyLimitOptions, noisy_limit
from leakage_audit.observation import Observation
from leakage_audit.readings.evaluation import LimitOutcome
from leakage_audit.runtime import Budget

UNKNOWN_SHARE = 0.7  # of the time, for the whole batch at once: it is the harder problem


def measure_limits(
    seen: Observation, truth: Tensor, labels: Tensor, budget: Budget
) -> tuple[LimitOutcome, LimitOutcome]:
    """The limit with the batch's other images unknown, and with them known; of a single image both are the same.

    Args:
        seen: What the attacker sees, with the noise that a defence put on it.
        truth: The true images `(B, C, H, W)` in the observation's value range.
        labels: Their classes `(B,)`.
        budget: Time limit and progress report.

    Raises:
        ValueError: If the images are not scored by one class each, or the gradient holds nothing.
    """
    if seen.batch_size == 1:
        alone = _measured(seen, truth, labels, "unknown", budget)
        return alone, alone
    left = None if budget.seconds is None else max(budget.seconds - budget.spent, 1e-3)
    share = Budget(None if left is None else UNKNOWN_SHARE * left, budget.tell)
    unknown = _measured(seen, truth, labels, "unknown", share)
    rest = None if budget.seconds is None else max(budget.seconds - budget.spent, 1e-3)
    return unknown, _measured(seen, truth, labels, "known", Budget(rest, budget.tell))


def _measured(seen: Observation, truth: Tensor, labels: Tensor, others: Others, budget: Budget) -> LimitOutcome:
    options = NoisyLimitOptions(limit=LimitOptions(uncertainty=bool(seen.noise)))
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError("the limit is computed for images of one class each; soft and multi-label targets are not")
    at = (truth.to(seen.device, seen.dtype), labels.to(seen.device))
    found: Limit = noisy_limit(seen, *at, others=others, options=options, budget=budget)
    low, high = seen.value_range
    images = (found.images.detach().cpu() - low) / (high - low)
    # With a defence's noise what it adds in expectation counts, where it is known.
    return LimitOutcome(list(found.psnr), found.solved, images.to(torch.float32))
