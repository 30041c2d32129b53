"""Fisher information leakage of a gradient (Guo, Karrer, Chaudhuri & van der Maaten 2022, arXiv 2201.12383).

With Gaussian noise of standard deviation σ on the gradient g(x), the Fisher information that it holds about the input
is `JᵀJ/σ²`, J = ∂g/∂x, and its largest eigenvalue is the square of

    η = ‖J‖₂ / σ

By Cramér and Rao no unbiased reconstruction has a smaller error than 1/η² in the direction that leaks most. J is
never formed: a power iteration needs products with J and Jᵀ only.
"""

import torch
from torch import Tensor

from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.observation import Observation


def fisher_information_leakage(seen: Observation, x: Tensor, noise: float, steps: int = 30, seed: int = 0) -> float:
    """η at an input.

    Args:
        seen: What leaked; only its network, loss and labels count.
        x: Where, `(B, C, H, W)`, in the network's input space: a public image, or an attack's reconstruction.
        noise: σ, in the gradient's units.
        steps: Of the power iteration; the result is a lower bound that grows with them.
        seed: Of the iteration's start.

    Returns:
        η.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> image = torch.rand(1, 3, 12, 12)
        >>> seen = observe(models.build("cnn2_v2", image_size=12), image, 3)
        >>> one, ten = (fisher_information_leakage(seen, image, noise) for noise in (1.0, 10.0))
        >>> round(one / ten, 6)
        10.0

    Raises:
        ValueError: If the noise is not positive.
    """
    if not noise > 0:
        raise ValueError(f"noise must be positive, got {noise}")
    seen = seen.to(torch.float64)
    labels, _ = labels_for(seen)
    x = x.detach().double().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        scores = seen.network(x)
        found = torch.autograd.grad(seen.loss(scores, labels), list(seen.parameters.values()), create_graph=True)
        g = torch.cat([part.flatten() for part in found])
        dummy = torch.zeros_like(g, requires_grad=True)
        (pulled,) = torch.autograd.grad(g, x, dummy, create_graph=True)  # Jᵀ dummy, linear in dummy
        v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed)).to(x.device)
        for _ in range(steps):
            (pushed,) = torch.autograd.grad(pulled, dummy, v / v.norm(), retain_graph=True)  # J v
            (v,) = torch.autograd.grad(g, x, pushed, retain_graph=True)
    return float(v.norm().sqrt()) / noise
