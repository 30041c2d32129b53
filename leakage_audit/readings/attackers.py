"""One attack tried by everybody who may have seen a gradient: by who knows its defence, and by who does not."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from leakage_audit.attacks.base import Attack, Reconstruction
from leakage_audit.observation import Observation
from leakage_audit.readings.evaluation import AttackOutcome
from leakage_audit.runtime import Budget
from leakage_audit.scores.metrics import score


def strongest(attack: Attack, attackers: Sequence[Observation], truth: Tensor, budget: Budget) -> AttackOutcome:
    """The attack by each attacker in turn: the outcome of the one who got most, out of time if any of them was.

    Who could not begin (no derivative is left in the gradient, say) has only the grey image that an attack returns
    then, and counts where nobody could. Of several attackers the outcome's `details` hold `knows_defence`, whether it
    was the first, and `psnr_by_attacker`, None for who could not begin.

    Args:
        attack: What they all run.
        attackers: What each of them sees of one gradient. The first knows most: by the noise that it knows of, whether
            a result agrees with the gradient is judged for all.
        truth: The true images `(B, C, H, W)` in [0, 1], on the CPU; for the scores alone.
        budget: For all of them together; what one leaves of its time, the next may use.

    Raises:
        Exception: Whatever the attack raises, at the first attacker that it fails for.

    >>> from leakage_audit import attacks, models, observe
    >>> from leakage_audit.defences import Composition, Quantize
    >>> _ = torch.manual_seed(0)
    >>> image = torch.rand(1, 3, 8, 8)
    >>> seen = observe(models.build("cnn2_v1", image_size=8), image, 3)
    >>> shared = Composition([Quantize(8)]).share(seen.gradients)
    >>> both = [shared.seen_by(seen, knows) for knows in (True, False)]
    >>> found = strongest(attacks.Joint(), both, image, Budget())
    >>> found.result.details["knows_defence"], len(found.result.details["psnr_by_attacker"])
    (True, 2)
    """
    found = []
    for waiting, seen in zip(range(len(attackers), 0, -1), attackers, strict=True):
        share = budget.share(1 / waiting)
        result = attack(seen, share)
        if seen is not attackers[0]:
            result = attack.judged(result, attackers[0], share)
        found.append(_scored(result, truth, seen, share))
    best = max(found, key=lambda outcome: (_begun(outcome), max(outcome.scores.psnr)))
    if len(found) == 1:
        return best
    details = best.result.details | {
        "knows_defence": best is found[0],
        "psnr_by_attacker": [x.scores.psnr if _begun(x) else None for x in found],
    }
    return replace(best, result=replace(best.result, details=details), out_of_time=any(x.out_of_time for x in found))


def to_unit_range(images: Tensor, seen: Observation) -> Tensor:
    """Images on the CPU in single or double precision, their value range brought to [0, 1].

    Args:
        images: `(B, C, H, W)` in the observation's value range.
        seen: Says which that is.
    """
    low, high = seen.value_range
    images = images.detach().cpu()
    images = images.float() if torch.finfo(images.dtype).bits < 32 else images
    return (images - low) / (high - low)


def _begun(outcome: AttackOutcome) -> bool:
    return not math.isnan(outcome.result.residual)


def _scored(result: Reconstruction, truth: Tensor, seen: Observation, budget: Budget) -> AttackOutcome:
    kept = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in result.details.items()}
    result = replace(result, images=to_unit_range(result.images, seen), details=kept)
    return AttackOutcome(result, score(result.images, truth), budget.stopped)
