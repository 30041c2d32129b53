"""Per-sample clipping, the first half of DP-SGD (Abadi et al. 2016): each image's own gradient, before averaging."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.clip import Clip
from leakage_audit.defences.shared import Shared


class ClipPerSample(Mechanism):
    """Shorten each image's gradient to a highest norm, then average: `g ← Σ_i g_i · min(1, bound/‖g_i‖) / B`.

    Only then does one image change the average by no more than `bound/B`, whatever it shows, and only then is noise a
    promise of differential privacy. It needs every image's own gradient and so comes first of all mechanisms; on the
    gradient of a single image it is `Clip`.

    Args:
        bound: Highest norm of one image's gradient.

    Raises:
        ValueError: If the bound is not positive.

    >>> import torch
    >>> shared = ClipPerSample(1.0)(Shared.of({"w": torch.tensor([3.0, 4.0])}), torch.Generator())
    >>> shared.gradients["w"]  # of one image
    tensor([0.6000, 0.8000])
    """

    needs_samples = True

    def __init__(self, bound: float = 1.0) -> None:
        if not bound > 0:
            raise ValueError(f"bound must be positive, got {bound}")
        self.bound = bound

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Clip one image's gradient; an average that `reduce` made of several is left as it is."""
        return shared if shared.per_image is not None else Clip(self.bound)(shared, generator)

    def factors(self, samples: Mapping[str, Tensor]) -> Tensor:
        """By how much each image's gradient is multiplied, `(B,)`.

        Args:
            samples: Each image's gradient by parameter, `(B, …)`.
        """
        squares = torch.stack([g.flatten(1).double().square().sum(1) for g in samples.values()]).sum(0)
        return (self.bound / squares.sqrt()).clamp(max=1.0)

    def reduce(self, samples: Mapping[str, Tensor], count: float | None = None) -> Shared:
        """The average of the clipped gradients.

        Args:
            samples: Each image's gradient by parameter, `(B, …)`.
            count: What the sum is divided by; B by default.
        """
        factors = self.factors(samples)
        count = len(factors) if count is None else count
        averaged = {name: torch.tensordot(factors.to(g), g, 1) / count for name, g in samples.items()}
        return Shared.of(averaged, factors)


def sample_gradients(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor, names: list[str]
) -> dict[str, Tensor]:
    """Each image's own gradient by parameter, `(B, …)`, through `torch.func`.

    Args:
        network: Maps inputs `(B, C, H, W)` to scores; layers that mix images (batch normalisation in training mode)
            have no per-sample gradients.
        loss: `loss(scores, labels)`, averaged over the batch.
        x: Inputs.
        labels: `(B,)`, or a row an image.
        names: Parameters.

    Raises:
        ValueError: If the network mixes images.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    >>> x, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 2])
    >>> sample_gradients(network, nn.functional.cross_entropy, x, labels, ["1.bias"])["1.bias"].shape
    torch.Size([2, 3])
    """
    for path, part in network.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training:
            raise ValueError(
                f"{path or type(part).__name__} normalises over the batch, so that no image has a gradient of its own: "
                "replace it by GroupNorm (opacus.validators.ModuleValidator.fix does), or keep it in eval mode"
            )
    own = dict(network.named_parameters())
    chosen = {name: own[name].detach() for name in names}

    def objective(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(network, parameters, (image[None],)), label[None])

    return vmap(grad(objective), in_dims=(None, 0, 0), randomness="different")(chosen, x, labels)
