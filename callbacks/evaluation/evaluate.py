"""One look at one observation: measure it, attack it, score what comes out. Everything after the snapshot."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from leakage_audit.attacks.base import Attack
from leakage_audit.callbacks.evaluation.limits import measure_limits
from leakage_audit.callbacks.settings import AuditOptions
from leakage_audit.measures.security import security_metric
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation
from leakage_audit.readings.attackers import strongest, to_unit_range
from leakage_audit.readings.evaluation import AttackOutcome as AttackOutcome
from leakage_audit.readings.evaluation import Evaluation as Evaluation
from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime, bytes_of
from leakage_audit.scores.metrics import chance_floor

log = logging.getLogger("leakage_audit")

OUT_OF_TIME = "out of time"
Job = tuple[tuple[Any, ...], Mapping[str, Any]]


def evaluate_all(jobs: Iterable[Job], count: int, budget: Budget) -> list[Evaluation]:
    """Evaluate observations one after the other; what one leaves of its time, the next ones may use.

    Args:
        jobs: The arguments of `evaluate`, one an observation; each is asked for when its turn comes, and not kept.
        count: Of them.
        budget: For all of them together.

    Raises:
        OutOfMemory: If an observation by itself takes more than there is.
    """
    waiting = iter(jobs)
    return [_next(waiting, budget, left) for left in range(count, 0, -1)]


def _next(jobs: Iterator[Job], budget: Budget, left: int) -> Evaluation:
    """One of the `left` jobs, with its share of the time."""
    arguments, keywords = next(jobs)
    with budget.holding("a gradient with its network", held_by((arguments, keywords))):
        return evaluate(*arguments, **keywords, budget=budget.share(1 / left))


def held_by(job: Job) -> int:
    """Bytes of what the attackers see, and of the same in single precision where it is in half."""
    (first, *_), keywords = job
    both = [first] if keywords.get("known") is None else [first, keywords["known"]]
    tensors = [tensor for seen in both for tensor in seen.tensors]
    halves = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.element_size() < 4]
    return bytes_of(tensors) + 4 * sum(tensor.numel() for tensor in halves)


def evaluate(
    seen: Observation,
    truth: Tensor,
    labels: Tensor,
    attacks: Mapping[str, Attack],
    *,
    measure: bool = True,
    budget: Budget | None = None,
    strict: bool = False,
    guess: Tensor | None = None,
    limit: float = 0.25,
    known: Observation | None = None,
    bounded: bool = True,
    options: AuditOptions | None = None,
) -> Evaluation:
    """Measure an observation, run the attacks on it one after the other, and score them.

    What the time does not reach, or the memory does not hold, is noted as a problem: it has no number and no picture.

    Args:
        seen: What the attacker sees.
        truth: The true images `(B, C, H, W)` in image space; used for scores only.
        labels: Their classes `(B,)`.
        attacks: By the name that they are logged under.
        measure: Whether to rank the layers' systems and compute c(M).
        budget: For c(M), all attacks and the limit together; what one leaves over, the next ones may use. None by
            default.
        strict: Let an attack's exception through instead of noting it.
        guess: `(C, H, W)` in [0, 1], what the reconstructions are held against; None for mid-grey.
        limit: Share of the time that is kept for what the gradient determines, whoever attacks; 0 does not compute it.
        known: What an attacker sees who knows the defence that the gradient went through. Each attack is then tried
            by both, and the one that got more counts.
        bounded: Whether the limit is one: where a defence's error is no noise (entries left out, rounding to few
            values), an attack may get more, and the limit counts as unsolved.
        options: How c(M) and the limit are computed.
    """
    options = options or AuditOptions()
    true_images, truth = truth, to_unit_range(truth, seen)
    seen = seen.to(torch.float32) if torch.finfo(seen.dtype).bits < 32 else seen
    known = known.to(torch.float32) if known is not None and torch.finfo(known.dtype).bits < 32 else known
    evaluation = Evaluation(truth, labels.tolist(), chance_floor(guess, truth))
    budget = budget or Budget()
    if measure:
        share = budget.share(options.security_share if attacks else 1.0)
        try:
            evaluation.security = security_metric(seen, options=options.security, budget=share)
        except ValueError as error:  # the network is no chain, or its gradient holds nothing
            evaluation.problems["c"] = str(error)
    kept = 0.0 if budget.seconds is None else limit * budget.left
    for waiting, (name, attack) in zip(range(len(attacks), 0, -1), attacks.items(), strict=True):
        left = budget.left
        if left <= kept and budget.seconds is not None:
            evaluation.problems[name] = OUT_OF_TIME
            continue
        share = budget.share(1.0 if budget.seconds is None else (left - kept) / left / waiting)
        try:
            outcome = strongest(attack, [seen] if known is None else [known, seen], truth, share)
        except UnreadableNetwork as error:
            evaluation.problems[name] = str(error)
            evaluation.refused.add(name)
        except OutOfTime:
            evaluation.problems[name] = OUT_OF_TIME
        except OutOfMemory as error:
            evaluation.problems[name] = str(error)
        except Exception as error:  # whatever an attack raises, the training goes on unless asked otherwise
            if strict:
                raise
            evaluation.problems[name] = f"{type(error).__name__}: {error}"
            log.debug("attack %s failed", name, exc_info=True)
        else:
            evaluation.outcomes[name] = outcome
    if limit > 0 and attacks:
        try:
            budget.check()
            found = measure_limits(known or seen, true_images, labels, budget.share(), options)
            if not bounded:
                found = (replace(found[0], solved=False), replace(found[1], solved=False))
            evaluation.limit, evaluation.limit_others_known = found
        except OutOfTime:
            evaluation.problems["limit"] = OUT_OF_TIME
        except Exception as error:  # as for an attack
            if strict and not isinstance(error, ValueError | OutOfMemory):
                raise
            evaluation.problems["limit"] = str(error) or type(error).__name__
            log.debug("the limit failed", exc_info=True)
    return evaluation
