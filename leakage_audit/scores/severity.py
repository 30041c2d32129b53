"""A word for how much of an image came back: unrecognisable, silhouette, recognisable, exact.

A PSNR by itself says little: 15 dB is a fine result for a picture full of contrast, and less than a guess for a foggy
one. So a reconstruction is set beside `scores.chance_floor`, what guessing scores without any gradient:

    gain  = PSNR − PSNR of the guess                               how many dB were learnt from the gradient
    share = (SSIM − SSIM of the guess) / (1 − SSIM of the guess)   how much of the missing structure came back

- *exact*: the error is below half of one of the 255 steps of an 8-bit image, 54.2 dB: rounded, it is the stored image.
- *recognisable*: gain ≥ 6 dB, or share ≥ 0.4: one sees what the picture shows.
- *silhouette*: gain ≥ 2 dB, or share ≥ 0.1: one sees where something is, and roughly what shape or colour.
- *unrecognisable*: less. To the eye, that is: a comparison with a suspected image may still find it.

Either of the two is enough, since each is blind to something that eyes are not: SSIM to what is under noise, PSNR to
what is faded. The borders were drawn by looking at photographs blurred, faded, noisy and half determined, sorted by
the two numbers, and where eyes were in two minds, the word is the one that claims less privacy; see docs/report.md.
"""

import math
from collections.abc import Sequence

from leakage_audit.scores.metrics import Scores

SEVERITIES = ("unrecognisable", "silhouette", "recognisable", "exact")
EXACT_PSNR = 20 * math.log10(2 * 255)  # dB: a root mean square error of half a step of 1/255
GAIN = {"recognisable": 6.0, "silhouette": 2.0}  # dB above the guess
SHARE = {"recognisable": 0.4, "silhouette": 0.1}  # of the structure that the guess lacks


def severity(psnr: float, ssim: float, chance_psnr: float, chance_ssim: float) -> str:
    """One of `SEVERITIES`.

    Args:
        psnr: Of the reconstruction, in dB, peak 1.
        ssim: Of the reconstruction.
        chance_psnr: Of the guess without a gradient, for the same image.
        chance_ssim: Likewise.
    """
    if psnr >= EXACT_PSNR:
        return "exact"
    share = (ssim - chance_ssim) / (1 - chance_ssim) if chance_ssim < 1 else 0.0
    for name in ("recognisable", "silhouette"):
        if psnr - chance_psnr >= GAIN[name] or share >= SHARE[name]:
            return name
    return "unrecognisable"


def severities(scores: Scores, floor: Scores) -> list[str]:
    """A word for each reconstruction, against the floor of the image that it was matched with."""
    return [
        severity(psnr, ssim, floor.psnr[truth], floor.ssim[truth])
        for psnr, ssim, truth in zip(scores.psnr, scores.ssim, scores.order, strict=True)
    ]


def most_severe(found: Sequence[str]) -> str:
    """The word that says most was leaked: one image that came back is not made good by others that did not.

    Raises:
        ValueError: If there is none.
    """
    return max(found, key=SEVERITIES.index)
