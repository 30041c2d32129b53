"""The picture of an audit: each true image above what every attack made of it, captioned."""

from collections.abc import Sequence

import torch
from torch import Tensor

from leakage_audit.callbacks.evaluation.evaluate import Evaluation
from leakage_audit.figures import audit_grid, caption
from leakage_audit.scores.severity import severities

COLUMNS = 8  # images shown; a step's batch may hold many more


def picture(evaluations: Sequence[Evaluation], title: str) -> tuple[Tensor, str] | None:
    """The looks' images as one 8-bit picture `(3, H, W)`, and its caption in one line.

    Args:
        evaluations: Some with outcomes.
        title: Stands above the picture.

    Returns:
        None if no attack came to an end, or the images are neither grey nor RGB.
    """
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.outcomes))
    targets = torch.cat([evaluation.truth.float() for evaluation in evaluations])[:COLUMNS]
    if not names or targets.shape[1] not in (1, 3):
        return None
    images, captions = (
        {},
        {"target": [f"class {label}" for evaluation in evaluations for label in evaluation.labels][:COLUMNS]},
    )
    for name in names:
        columns = [column for evaluation in evaluations for column in _columns(evaluation, name)][:COLUMNS]
        images[name] = torch.stack([image for image, _ in columns])
        captions[name] = [text for _, text in columns]
    shown = ["; ".join(text.replace("\n", ", ") for text in captions[name]) for name in names]
    return audit_grid(targets, images, captions, title), f"{title}: " + " | ".join(shown)


def _columns(evaluation: Evaluation, name: str) -> list[tuple[Tensor, str]]:
    """An attack's reconstruction of each of a look's images, in the images' order; nothing but a note if it failed."""
    outcome = evaluation.outcomes.get(name)
    if outcome is None:
        return [(torch.full_like(image, torch.nan, dtype=torch.float), f"{name}  failed") for image in evaluation.truth]
    scores = outcome.scores
    found = [(torch.full_like(image, torch.nan, dtype=torch.float), f"{name}  none") for image in evaluation.truth]
    for i, (truth, meaning) in enumerate(zip(scores.order, severities(scores, evaluation.floor), strict=True)):
        text = caption(name, scores.psnr[i], evaluation.floor.psnr[truth], scores.ssim[i], meaning)
        found[truth] = (outcome.result.images[i].float(), text)
    return found
