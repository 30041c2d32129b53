"""What the attacker sees: the one object that every attack and every measure starts from.

The true image goes into `observe` to make the gradients, as a training step would, and stays there: no field of
`Observation` holds it, and no attack has a parameter for it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.interval import Interval
from leakage_audit.runtime import Budget, bytes_of

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Observation:
    """What leaves the machine of a client that shares its gradients.

    Attributes:
        network: The attacker's own copy of the classifier, with the weights, buffers and modes of the observed step;
            maps inputs `(B, C, H, W)` to class scores `(B, classes)`.
        gradients: ∂L/∂p by parameter name, in the network's order; only parameters that got a gradient.
        input_shape: `(C, H, W)` of one image.
        batch_size: How many images the gradient averages over.
        loss: `loss(scores, labels)`, averaged over the batch.
        labels: The classes `(B,)`, or rows of several or soft labels `(B, classes)`, if the user grants them to the
            attacker, else None.
        mean: Per channel; the network's input is `(image - mean) / std`.
        std: Per channel.
        value_range: Lowest and highest value of an image (before normalisation).
        class_targets: Whether each image has one class, which its gradient may give away; False for several labels,
            soft labels and the like.
        noise: Standard deviation of each entry's error beyond rounding, shaped like its gradient, as far as the
            attacker knows of a defence (`defences`); infinite where an entry tells nothing. Empty if he knows of none.
        intervals: In which entries lie that were rounded, cut off or put to zero, likewise, by parameter name; for
            them `noise` is about the interval's spread.
    """

    network: nn.Module
    gradients: Mapping[str, Tensor] = field(repr=False)
    input_shape: tuple[int, int, int]
    batch_size: int = 1
    loss: Loss = F.cross_entropy
    labels: Tensor | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    value_range: tuple[float, float] = (0.0, 1.0)
    class_targets: bool = True
    noise: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    intervals: Mapping[str, Interval] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the gradients."""
        return next(iter(self.gradients.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the gradients lie."""
        return next(iter(self.gradients.values())).device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The network's parameters that have an observed gradient, in the order of `gradients`."""
        own = dict(self.network.named_parameters())
        return {name: own[name] for name in self.gradients}

    def gradient_of(self, module: str, kind: str) -> Tensor | None:
        """The gradient of a module's `weight` or `bias`; None if it was not shared.

        Args:
            module: The module's path in the network; empty for the network itself.
            kind: The parameter's name within the module.
        """
        return self.gradients.get(f"{module}.{kind}" if module else kind)

    def to(self, dtype: torch.dtype) -> "Observation":
        """The same observation with weights and gradients in another floating type."""
        if dtype == self.dtype and all(p.dtype == dtype for p in self.network.parameters()):
            return self
        network = copy_network(self.network).to(dtype)
        return replace(self, network=network, gradients={k: g.to(dtype) for k, g in self.gradients.items()})

    def to_image(self, x: Tensor) -> Tensor:
        """Map the network's inputs `(B, C, H, W)` to images: `x * std + mean`, not clipped."""
        return x * per_channel(self.std, x) + per_channel(self.mean, x)

    def to_input(self, image: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` to the network's inputs: `(image - mean) / std`."""
        return (image - per_channel(self.mean, image)) / per_channel(self.std, image)

    @property
    def tensors(self) -> list[Tensor]:
        """All that takes memory: weights, buffers, gradients and their noise."""
        own = [*self.network.parameters(), *self.network.buffers()]
        return [*own, *self.gradients.values(), *self.noise.values()]

    def problem(self) -> str | None:
        """Why nothing can be learnt from these gradients (not finite, or zero throughout), or None."""
        for name, gradient in self.gradients.items():
            if not is_finite(gradient):
                return f"the gradient of {name} holds NaN or infinite values"
        if all(not gradient.any() for gradient in self.gradients.values()):
            return "every gradient is zero: the loss is flat here and nothing leaks"
        return None


@contextmanager
def in_double_precision(seen: Observation, budget: Budget, copies: int = 0) -> Iterator[Observation]:
    """An observation in float64, which counts as held meanwhile.

    Args:
        seen: What leaked.
        budget: Whose memory it is held in.
        copies: Of its network that are made beside it.

    Raises:
        OutOfMemory: If there is not as much memory.
    """
    weights, gradients = (bytes_of(many) for many in (seen.network.parameters(), seen.gradients.values()))
    size = torch.float64.itemsize / seen.dtype.itemsize
    held = size * (copies * weights + (weights + gradients if seen.dtype != torch.float64 else 0))
    with budget.holding("weights and gradients in double precision", held):
        yield seen.to(torch.float64)


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; found without a tensor of the same size.

    >>> is_finite(torch.tensor([1.0, -2.0])), is_finite(torch.tensor([1.0, math.nan, 2.0])), is_finite(torch.ones(0))
    (True, False, True)
    """
    return not tensor.numel() or all(math.isfinite(edge) for edge in torch.aminmax(tensor))


def copy_network(network: nn.Module) -> nn.Module:
    """Deep copy of a network that may have run: tensors that it keeps with their graph are copied without it.

    Weight normalisation by hooks, pruning, and modules that remember their features keep such tensors as plain
    attributes, or in a list or dict, and `copy.deepcopy` refuses them.
    """
    memo: dict[int, Tensor] = {}
    for part in network.modules():
        for value in vars(part).values():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            memo.update((id(t), t.detach().clone()) for t in held if isinstance(t, Tensor) and t.grad_fn is not None)
    return copy.deepcopy(network, memo)


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Shape one number per channel (or one for all) for broadcasting over `like (B, C, H, W)`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def as_tuple(values: Any) -> tuple[float, ...]:
    """One number, or one per channel (a sequence, an array or a tensor), as a tuple of floats."""
    return tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())


@torch.inference_mode(False)
@torch.enable_grad()
def observe(
    model: nn.Module,
    image: Tensor,
    label: Tensor | int,
    loss: Loss = F.cross_entropy,
    *,
    mean: float | tuple[float, ...] = 0.0,
    std: float | tuple[float, ...] = 1.0,
    value_range: tuple[float, float] = (0.0, 1.0),
    grant_labels: bool = False,
) -> Observation:
    """Take the gradients that training on `image` would share, and keep nothing else of it.

    The model is copied; neither it nor its `.grad` is touched.

    Args:
        model: Any image classifier, `(B, C, H, W)` to `(B, classes)`.
        image: `(C, H, W)` or `(B, C, H, W)` in `value_range`; the network gets `(image - mean) / std`.
        label: Class, or classes `(B,)`; or floating-point targets of which the first dimension is B.
        loss: `loss(scores, labels)`, averaged over the batch.
        mean: Subtracted from the image, one for all channels or one each.
        std: Divides the image, one for all channels or one each.
        value_range: Lowest and highest value that an image may have.
        grant_labels: Whether the attacker is told the labels.

    Returns:
        What leaked.

    Example:
        >>> from leakage_audit.models import build
        >>> seen = observe(build("cnn2_v1"), torch.rand(3, 32, 32), 3)
        >>> list(seen.gradients)
        ['conv1.weight', 'fc.weight', 'fc.bias']

    Raises:
        ValueError: If image and labels do not fit each other or the model.
    """
    return observe_with(
        copy_network(model),
        image,
        label,
        loss,
        mean=mean,
        std=std,
        value_range=value_range,
        grant_labels=grant_labels,
    )


@torch.inference_mode(False)
@torch.enable_grad()
def observe_with(
    network: nn.Module,
    image: Tensor,
    label: Tensor | int,
    loss: Loss = F.cross_entropy,
    *,
    mean: float | tuple[float, ...] = 0.0,
    std: float | tuple[float, ...] = 1.0,
    value_range: tuple[float, float] = (0.0, 1.0),
    grant_labels: bool = False,
) -> Observation:
    """As `observe`, with a network that is a copy already: it is run, and becomes the observation's."""
    images = image.detach()[None] if image.ndim == 3 else image.detach()
    if images.ndim != 4 or not images.is_floating_point():
        shape = tuple(image.shape)
        raise ValueError(f"image must be floating point, (C, H, W) or (B, C, H, W), got {image.dtype} {shape}")
    labels = torch.as_tensor(label, device=images.device).clone()
    class_targets = not labels.is_floating_point()
    labels = labels.reshape(-1) if class_targets or labels.ndim == 0 else labels
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError(f"{type(network).__name__} has no trainable parameter, so it shares no gradient")
    mean, std = as_tuple(mean), as_tuple(std)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, images.shape[1]):
            raise ValueError(f"{name} has {len(values)} channels where images have {images.shape[1]}")
    x = (images - per_channel(mean, images)) / per_channel(std, images)
    scores = network(x.to(next(iter(parameters.values())).dtype))
    if scores.ndim != 2:
        raise ValueError(f"the model must return class scores (B, classes), got shape {tuple(scores.shape)}")
    highest = max(scores.shape[1] - 1, 1)  # one score tells two classes apart
    if class_targets and (labels.min() < 0 or labels.max() > highest):
        raise ValueError(f"labels must lie in 0 … {highest}, got {labels.tolist()}")
    found = torch.autograd.grad(loss(scores, labels), list(parameters.values()), allow_unused=True)
    return Observation(
        network=network,
        gradients={name: g.detach().to_dense() for name, g in zip(parameters, found, strict=True) if g is not None},
        input_shape=(images.shape[1], images.shape[2], images.shape[3]),
        batch_size=len(images),
        loss=loss,
        labels=labels if grant_labels else None,
        mean=mean,
        std=std,
        value_range=value_range,
        class_targets=class_targets and scores.shape[1] > 1,
    )
