"""Draws docs/words.png: how a picture looks on either side of each border between two words.

python docs/words.py
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from leakage_audit.data import Synthetic
from leakage_audit.figures import ComparisonRow, comparison_figure
from leakage_audit.scores.metrics import Scores, chance_floor, score
from leakage_audit.scores.severity import severity as word

STRENGTHS = {  # of blur (pixels), noise (standard deviation), fading (share kept), and equations (of 3072)
    "blurred": (0.3, 1.0, 2.0, 3.5, 8.0),
    "noisy": (0.001, 0.08, 0.17, 0.24, 0.6),
    "faded": (0.999, 0.5, 0.25, 0.12, 0.03),
    "half determined": (3072, 2600, 1900, 1300, 300),
}


def spoil(image: Tensor, mean: Tensor, how: str, strength: float) -> Tensor:
    """A reconstruction that is wrong in one way."""
    generator = torch.Generator().manual_seed(0)
    if how == "blurred":
        return gaussian_blur(image, [31, 31], [strength, strength])
    if how == "noisy":
        return image + strength * torch.randn(image.shape, generator=generator, dtype=image.dtype)
    if how == "faded":
        return mean + strength * (image - mean)
    rows = torch.randn(image.numel(), int(strength), generator=generator, dtype=image.dtype)
    basis = torch.linalg.qr(rows).Q  # what that many equations say of the picture, mid-grey for the rest
    return 0.5 + (basis @ (basis.T @ (image - 0.5).flatten())).view_as(image)


def main() -> Image.Image:
    """Draw one row a way of going wrong, from faint to strong."""
    data = Synthetic()
    data.setup("fit")
    mean = data.mean_image().double()
    rows = []
    for index, (how, strengths) in enumerate(STRENGTHS.items()):
        image = data.image_at(2 * index + 1).image.double()
        floor = chance_floor(mean, image)
        spoilt = {str(k): spoil(image, mean, how, strength) for k, strength in enumerate(strengths, start=1)}
        captions = {name: caption(score(found, image), floor) for name, found in spoilt.items()}
        about = f"chance {floor.psnr[0]:.1f} dB, SSIM {floor.ssim[0]:.2f}"
        rows.append(ComparisonRow(how, about, image, spoilt, captions))
    return comparison_figure(rows, Path(__file__).with_name("words.png"), enlarge=4)


def caption(scores: Scores, floor: Scores) -> str:
    """The word, and what it rests on."""
    found = word(scores.psnr[0], scores.ssim[0], floor.psnr[0], floor.ssim[0])
    return f"{found}\n{scores.psnr[0]:.1f} dB, SSIM {scores.ssim[0]:.2f}"


if __name__ == "__main__":
    main()
