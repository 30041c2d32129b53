"""How each metric is found in an audit's evaluations; each returns numbers by what its name is completed with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from leakage_audit.measures.layer_table import LayerReport
from leakage_audit.readings.evaluation import (
    Evaluation,
    LimitOutcome,
    attack_names,
    determined_count,
    highest,
    image_scores,
    lowest,
    recognised,
    unreached,
)
from leakage_audit.scores.severity import EXACT_PSNR

Numbers = Mapping[str, float]


def limit(evaluations: Sequence[Evaluation]) -> Numbers:
    """The highest limit of the images, in dB."""
    return _highest_limit([evaluation.limit for evaluation in evaluations])


def limit_others_known(evaluations: Sequence[Evaluation]) -> Numbers:
    """The highest limit of the images for an attacker who knows the others, in dB."""
    return _highest_limit([evaluation.limit_others_known for evaluation in evaluations])


def limit_mean(evaluations: Sequence[Evaluation]) -> Numbers:
    """The mean limit of the images, in dB."""
    found = [psnr for limit in _solved([evaluation.limit for evaluation in evaluations]) for psnr in limit.psnr]
    return {"": fmean(found)} if found else {}


def determined(evaluations: Sequence[Evaluation]) -> Numbers:
    """Share of the images that the gradient determines recognisably."""
    count = determined_count(evaluations)
    solved = _solved([evaluation.limit for evaluation in evaluations])
    return {"": count[0] / count[1]} if count is not None and solved else {}


def gap(evaluations: Sequence[Evaluation]) -> Numbers:
    """The largest difference of an image's limit and the best PSNR of an attack that ended by itself, in dB.

    Both count no further than to the stored image: beyond is rounding, of which no attack misses anything.
    """
    gaps = []
    for evaluation in evaluations:
        if evaluation.limit is None or not evaluation.limit.solved:
            continue
        scores = [x for name in evaluation.outcomes for x in image_scores(evaluation, name) if x.no_result is None]
        for i, value in enumerate(evaluation.limit.psnr):
            proven = [score.psnr for score in scores if score.image == i]
            gaps += [min(value, EXACT_PSNR) - min(max(proven), EXACT_PSNR)] if proven else []
    return {"": max(gaps)} if gaps else {}


def psnr(evaluations: Sequence[Evaluation]) -> Numbers:
    """By attack, the PSNR of the image of which it got most, in dB."""
    return {name: x.psnr for name in attack_names(evaluations) if (x := highest(evaluations, name)) is not None}


def ssim(evaluations: Sequence[Evaluation]) -> Numbers:
    """By attack, the SSIM of the image of which it got most."""
    return {name: x.ssim for name in attack_names(evaluations) if (x := highest(evaluations, name)) is not None}


def psnr_least(evaluations: Sequence[Evaluation]) -> Numbers:
    """By attack that ended by itself on every image, the PSNR of the image of which it got least, in dB."""
    return {name: least.psnr for name in attack_names(evaluations) if (least := lowest(evaluations, name)) is not None}


def recognisable(evaluations: Sequence[Evaluation]) -> Numbers:
    """By attack that ended by itself on every image, the share of the images that came back recognisably."""
    counts = {name: recognised(evaluations, name) for name in attack_names(evaluations)}
    return {name: count[0] / count[1] for name, count in counts.items() if count is not None}


def psnr_mean(evaluations: Sequence[Evaluation]) -> Numbers:
    """By attack that ended by itself on every image, the mean PSNR of the images, in dB."""
    found = {}
    for name in attack_names(evaluations):
        scores = [score for evaluation in evaluations for score in image_scores(evaluation, name)]
        if all(score.no_result is None for score in scores) and not unreached(evaluations, name):
            found[name] = fmean(score.psnr for score in scores)
    return found


def chance(evaluations: Sequence[Evaluation]) -> Numbers:
    """PSNR of the guess for the image that leaked most, or else for that of which the gradient determines most, in dB.

    So it belongs to the same image as the numbers that it is held against.
    """
    found = [x for name in attack_names(evaluations) if (x := highest(evaluations, name)) is not None]
    if found:
        return {"": max(found, key=lambda score: score.leak).chance_psnr}
    limits = [pair for x in evaluations if x.limit is not None for pair in zip(x.limit.psnr, x.floor.psnr, strict=True)]
    return {"": max(limits)[1]} if limits else {}


def c(evaluations: Sequence[Evaluation]) -> Numbers:
    """The security metric of the paper, mean of the evaluations that have it."""
    found = [x.security.c for x in evaluations if x.security is not None]
    return {"": fmean(found)} if found else {}


def joint_deficiency(evaluations: Sequence[Evaluation]) -> Numbers:
    """What an attack found at its solution, which says more than counting; else what was counted."""
    solved = [
        float(found)
        for x in evaluations
        for outcome in x.outcomes.values()
        if (found := outcome.result.details.get("joint_deficiency")) is not None
    ]
    counted = [
        float(x.security.joint_deficiency)
        for x in evaluations
        if x.security is not None and x.security.joint_deficiency is not None
    ]
    return {"": fmean(solved)} if solved else {"": counted[0]} if counted else {}


def layer_deficiency(evaluations: Sequence[Evaluation]) -> Numbers:
    """By layer, rank less unknowns."""
    return {name: float(layer.deficiency) for name, layer in _layers(evaluations)}


def layer_condition(evaluations: Sequence[Evaluation]) -> Numbers:
    """By layer, the condition of its system."""
    return {name: float(x.condition) for name, x in _layers(evaluations) if x.condition is not None}


def short(names: Sequence[str]) -> list[str]:
    """Layer names without the path that they share.

    Example::

        >>> short(["network.conv1", "network.conv2"])
        ['conv1', 'conv2']
    """
    paths = [name.split(".")[:-1] for name in names]
    shared = 0
    while paths and all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return [".".join(name.split(".")[shared:]) for name in names]


def _layers(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, LayerReport]]:
    """The layers of the first evaluation that has them: the ranks hardly depend on the image."""
    layers = next((x.security.layers for x in evaluations if x.security is not None), ())
    yield from zip(short([layer.name for layer in layers]), layers, strict=True)


def _highest_limit(found: Sequence[LimitOutcome | None]) -> Numbers:
    """Of all images; none unless every evaluation has one that was solved to its end."""
    solved = _solved(found)
    return {"": max(max(x.psnr, default=-math.inf) for x in solved)} if solved else {}


def _solved(found: Sequence[LimitOutcome | None]) -> list[LimitOutcome]:
    """All of them if every evaluation has one that was solved to its end, else none."""
    solved = [x for x in found if x is not None and x.solved]
    return solved if len(solved) == len(found) else []
