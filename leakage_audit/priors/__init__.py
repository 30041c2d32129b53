"""What an attacker believes about images; one file a prior."""

from collections.abc import Callable

from leakage_audit.priors.base import GREY, Belief, Prior
from leakage_audit.priors.denoiser import Denoiser
from leakage_audit.priors.gaussian import Gaussian
from leakage_audit.priors.serialization import load, save
from leakage_audit.priors.tikhonov import MinimumNorm
from leakage_audit.priors.total_variation import Variation

PRIORS: dict[str, Callable[[], Prior]] = {
    "colour_tv": Variation,
    "tv": lambda: Variation(chroma=1.0),
    "none": MinimumNorm,
}

__all__ = ["GREY", "PRIORS", "Belief", "Denoiser", "Gaussian", "MinimumNorm", "Prior", "Variation", "load", "save"]
