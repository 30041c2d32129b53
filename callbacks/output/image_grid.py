"""The picture of an audit: each true image above what every attack made of it, captioned."""

from collections.abc import Sequence

import torch
from torch import Tensor

from leakage_audit.callbacks.evaluation.evaluate import Look
from leakage_audit.figures import audit_grid, caption
from leakage_audit.scores.severity import words

COLUMNS = 8  # images shown; a step's batch may hold many more


def picture(looks: Sequence[Look], title: str) -> tuple[Tensor, str] | None:
    """The looks' images as one 8-bit picture `(3, H, W)`, and its caption in one line.

    Args:
        looks: Some with outcomes.
        title: Stands above the picture.

    Returns:
        None if no attack came to an end, or the images are neither grey nor RGB.
    """
    names = list(dict.fromkeys(name for looked in looks for name in looked.outcomes))
    targets = torch.cat([looked.truth.float() for looked in looks])[:COLUMNS]
    if not names or targets.shape[1] not in (1, 3):
        return None
    images, captions = {}, {"target": [f"class {label}" for looked in looks for label in looked.labels][:COLUMNS]}
    for name in names:
        columns = [column for looked in looks for column in _columns(looked, name)][:COLUMNS]
        images[name] = torch.stack([image for image, _ in columns])
        captions[name] = [text for _, text in columns]
    shown = ["; ".join(text.replace("\n", ", ") for text in captions[name]) for name in names]
    return audit_grid(targets, images, captions, title), f"{title}: " + " | ".join(shown)


def _columns(looked: Look, name: str) -> list[tuple[Tensor, str]]:
    """An attack's reconstruction of each of a look's images, in the images' order; nothing but a note if it failed."""
    outcome = looked.outcomes.get(name)
    if outcome is None:
        return [(torch.full_like(image, torch.nan, dtype=torch.float), f"{name}  failed") for image in looked.truth]
    scores = outcome.scores
    found = [(torch.full_like(image, torch.nan, dtype=torch.float), f"{name}  none") for image in looked.truth]
    for i, (truth, meaning) in enumerate(zip(scores.order, words(scores, looked.floor), strict=True)):
        text = caption(name, scores.psnr[i], looked.floor.psnr[truth], scores.ssim[i], meaning)
        found[truth] = (outcome.result.images[i].float(), text)
    return found
