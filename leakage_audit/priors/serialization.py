"""Learned priors as files: what they hold says which prior it is."""

from pathlib import Path

import torch

from leakage_audit.priors.base import Prior
from leakage_audit.priors.denoiser import Denoiser
from leakage_audit.priors.gaussian import Gaussian
from leakage_audit.priors.total_variation import TotalVariation
from leakage_audit.priors.unet import UNet


def save(prior: Gaussian | Denoiser, path: str | Path) -> None:
    """Write a learned prior; what stands beside a Gaussian is not part of the file, nor are a denoiser's settings.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Gaussian(torch.zeros(1, 2, 2), torch.eye(4)), f"{folder}/prior.pt")
    ...     load(f"{folder}/prior.pt").mean.shape
    torch.Size([1, 2, 2])
    """
    if isinstance(prior, Gaussian):
        kept = {"kind": "gaussian", "mean": prior.mean.float(), "covariance": prior.covariance.float()}
    else:
        network = prior.network
        shape = {name: getattr(network, name) for name in ("channels", "width", "spread", "waves")}
        kept = {"kind": "denoiser", "shape": shape, "weights": network.state_dict()}
    torch.save(kept, path)


def load(path: str | Path) -> Prior:
    """Read what `save` wrote; a Gaussian then counts beside colour TV.

    Raises:
        ValueError: If the file holds no prior.
    """
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
        kind = kept["kind"]
    except Exception as error:  # torch.load raises whatever unpickling a foreign file happens to raise
        raise ValueError(f"{path} holds no prior: make one with leakage-audit prior") from error
    if kind == "gaussian":
        return Gaussian(kept["mean"], kept["covariance"], beside=TotalVariation())
    network = UNet(**kept["shape"])
    network.load_state_dict(kept["weights"])
    return Denoiser(network)
