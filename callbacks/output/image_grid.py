"""The picture of an audit: each true image above what every attack made of it, captioned."""

from collections.abc import Iterable, Sequence
from textwrap import shorten

import torch
from torch import Tensor

from leakage_audit.figures import audit_grid, caption
from leakage_audit.readings.evaluation import LIMIT, Evaluation, attack_names, highest, no_results
from leakage_audit.readings.reading import UNKNOWN_LIMIT, limit_says, shown_word
from leakage_audit.readings.several import positions
from leakage_audit.scores.severity import severities

COLUMNS = 8  # images shown; a step's batch may hold many more, of which those that leaked most and least are shown
DETERMINED = "what the gradient determines"
REASON = 40  # letters of a reason under a tile


def picture(evaluations: Sequence[Evaluation], title: str) -> tuple[Tensor, str] | None:
    """The looks' images as one 8-bit picture `(3, H, W)`, and its caption in one line.

    Args:
        evaluations: Some with outcomes.
        title: Stands above the picture.

    Returns:
        None if nothing was attacked, or the images are neither grey nor RGB.
    """
    missing = no_results(evaluations)
    names = list(dict.fromkeys([*attack_names(evaluations), *(name for name in missing if name != LIMIT)]))
    every = torch.cat([evaluation.truth.float() for evaluation in evaluations])
    marks = _marks(evaluations) if len(every) > 1 else {}
    chosen = _chosen(len(every), marks)
    targets = every[chosen]
    if not names or targets.shape[1] not in (1, 3):
        return None
    if len(every) > COLUMNS:
        title = f"{title}, {COLUMNS} of {len(every)} images"
    classes = [f"class {label}" for evaluation in evaluations for label in evaluation.labels]
    images, captions = {}, {"target": [classes[i] + marks.get(i, "") for i in chosen]}
    determined = _at(chosen, [column for evaluation in evaluations for column in _determined(evaluation)])
    known = any(evaluation.limit is not None and evaluation.limit.image is not None for evaluation in evaluations)
    if known or LIMIT in missing:  # a row that vanished would not be missed
        images[DETERMINED] = torch.stack([image for image, _ in determined])
        captions[DETERMINED] = [text for _, text in determined]
    for name in names:
        columns = _at(chosen, [column for evaluation in evaluations for column in _columns(evaluation, name)])
        images[name] = torch.stack([image for image, _ in columns])
        captions[name] = [text for _, text in columns]
    shown = ["; ".join(text.replace("\n", ", ") for text in captions[name]) for name in names]
    return audit_grid(targets, images, captions, title), f"{title}: " + " | ".join(shown)


def _marks(evaluations: Sequence[Evaluation]) -> dict[int, str]:
    """Words for the images that leaked most and least, to the attack that got most; none where that is not known."""
    ended = {name: x.leak for name in attack_names(evaluations) if (x := highest(evaluations, name)) is not None}
    if not ended:
        return {}
    found = positions(evaluations, max(ended, key=lambda name: ended[name]))
    return {place: f", leaked {word}" for word, place in found.items()}


def _chosen(count: int, marked: Iterable[int]) -> list[int]:
    """The images that are shown: those that are marked, and of the others the first."""
    kept = set(marked)
    others = [i for i in range(count) if i not in kept][: COLUMNS - len(kept)]
    return sorted([*kept, *others])


def _at(chosen: Sequence[int], columns: Sequence[tuple[Tensor, str]]) -> list[tuple[Tensor, str]]:
    return [columns[i] for i in chosen]


def _determined(evaluation: Evaluation) -> list[tuple[Tensor, str]]:
    """What the gradient determines of each image, whoever attacks."""
    limit = evaluation.limit
    if limit is None or limit.image is None:
        reason = evaluation.problems.get(LIMIT)
        said = UNKNOWN_LIMIT if reason is None else f"not known: {_short(reason)}"
        return [(_none(image), f"{DETERMINED}\n{said}") for image in evaluation.truth]
    found = []
    for image, psnr, chance in zip(limit.image, limit.psnr, evaluation.floor.psnr, strict=True):
        said = limit_says(psnr, chance, limit.solved)
        shown = image.float() if said != UNKNOWN_LIMIT else _none(image)  # a grey square would look like safety
        found.append((shown, f"{DETERMINED}\n{said}"))
    return found


def _none(image: Tensor) -> Tensor:
    """Shown as a hatched tile."""
    return torch.full_like(image, torch.nan, dtype=torch.float)


def _short(reason: str) -> str:
    return shorten(reason, REASON, placeholder="…")


def _columns(evaluation: Evaluation, name: str) -> list[tuple[Tensor, str]]:
    """An attack's reconstruction of each image, in the images' order; a hatched tile and the reason for no result."""
    outcome = evaluation.outcomes.get(name)
    if outcome is None:
        reason = _short(evaluation.problems.get(name, "failed"))
        return [(_none(image), f"{name}\n{shown_word(None, reason)}") for image in evaluation.truth]
    if outcome.no_result is not None:
        reason = _short(outcome.no_result)
        return [(_none(image), f"{name}\n{shown_word(None, reason)}") for image in evaluation.truth]
    scores = outcome.scores
    found = [(_none(image), f"{name}\n{shown_word(None, None)}") for image in evaluation.truth]
    for i, (truth, word) in enumerate(zip(scores.order, severities(scores, evaluation.floor), strict=True)):
        text = caption(name, scores.psnr[i], evaluation.floor.psnr[truth], scores.ssim[i], word)
        found[truth] = (outcome.result.images[i].float(), text)
    return found
