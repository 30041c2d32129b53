"""What an attacker believes about images; one file a prior.

>>> sorted(PRIORS)
['colour_tv', 'none', 'tv']
>>> PRIORS["tv"]().chroma
1.0
"""

from collections.abc import Callable

from leakage_audit.priors.base import GREY, LocalGaussian, Prior, under_noise
from leakage_audit.priors.denoiser import Denoiser
from leakage_audit.priors.gaussian import Gaussian
from leakage_audit.priors.serialization import load, save
from leakage_audit.priors.tikhonov import Tikhonov
from leakage_audit.priors.total_variation import TotalVariation

PRIORS: dict[str, Callable[[], Prior]] = {
    "colour_tv": TotalVariation,
    "tv": lambda: TotalVariation(chroma=1.0),
    "none": Tikhonov,
}

__all__ = [
    "GREY",
    "PRIORS",
    "Denoiser",
    "Gaussian",
    "LocalGaussian",
    "Prior",
    "Tikhonov",
    "TotalVariation",
    "load",
    "save",
    "under_noise",
]
