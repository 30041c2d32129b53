"""Gradients at candidate inputs, and how far they are from those observed: what every first-order attack minimises."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.networks.double_backward import differentiable_twice
from leakage_audit.networks.stateless import graph_size, stateless
from leakage_audit.observation import Observation, copy_network
from leakage_audit.runtime import Budget, bytes_of


class Candidates:
    """The gradients that candidate inputs would have shared, differentiable with respect to these inputs.

    Works on any differentiable classifier: the network is only ever called. It is copied, so that running statistics
    stay as observed. Layers that fuse (cuDNN, mkldnn) are left to torch, all of which can be differentiated twice.

    Args:
        seen: What leaked.
        budget: Limit of memory; none by default.

    Raises:
        OutOfMemory: If a gradient with the graph of its derivative does not fit.

    Attributes:
        targets: The observed gradients, in the order of `gradients`.
        features: Input of the last fully connected layer `(B, n)` at the last candidate; None before the first one and
            in networks without such a layer.
    """

    def __init__(self, seen: Observation, budget: Budget | None = None) -> None:
        _require(seen, budget or Budget())
        self.network = differentiable_twice(copy_network(seen.network))
        own = dict(self.network.named_parameters())
        self.targets = tuple(seen.gradients.values())
        self.features: Tensor | None = None
        self._parameters = [own[name].requires_grad_() for name in seen.gradients]
        self._loss = seen.loss
        last = last_layer(seen)
        if last is not None:
            self.network.get_submodule(last.name).register_forward_pre_hook(self._keep_features)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]

    def gradients(self, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """∂L/∂p at inputs `x (B, C, H, W)` and `labels` (classes, or probabilities where the loss takes them)."""
        loss = self._loss(self.network(x), labels)
        return torch.autograd.grad(loss, self._parameters, create_graph=True)


def _require(seen: Observation, budget: Budget) -> None:
    """Go on only if a candidate's gradient fits in memory; what it keeps is found out only if its copy does."""
    if budget.memory_gb is None:
        return
    own, what = bytes_of(seen.network.parameters()), "a gradient to be matched"
    budget.require_memory(what, own + 4 * sum(seen.dtype.itemsize * g.numel() for g in seen.gradients.values()))
    network = stateless(seen.network)
    middle = sum(seen.value_range) / 2
    grey = torch.full((seen.batch_size, *seen.input_shape), middle, dtype=seen.dtype, device=seen.device)
    size = graph_size(network, lambda: network(seen.to_input(grey)), seen.gradients.values())
    budget.require_memory(what, own + seen.dtype.itemsize * size)


def cosine_distance(gradients: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """1 − the cosine of the angle between all gradients, taken as one long vector, and the targets."""
    product = torch.stack([(g * t).sum() for g, t in zip(gradients, targets, strict=True)]).sum()
    return 1 - product / _norm(gradients) / _norm(targets)


def mean_cosine_distance(gradients: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """1 − the cosine of the angle, tensor by tensor, averaged over the tensors."""
    apart = [cosine_distance([g], [t]) for g, t in zip(gradients, targets, strict=True)]
    return torch.stack(apart).mean()


def squared_distance(gradients: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Σ_p ‖∂L/∂p − g_p‖²."""
    return torch.stack([(g - t).square().sum() for g, t in zip(gradients, targets, strict=True)]).sum()


def relative_distance(gradients: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Σ_p ‖∂L/∂p − g_p‖²/‖g_p‖²: every tensor counts alike, whatever its size."""
    apart = [(g - t).square().sum() / _norm([t]).square() for g, t in zip(gradients, targets, strict=True)]
    return torch.stack(apart).sum()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Length of all tensors as one long vector, kept off zero so that its derivative stays finite."""
    tiny = torch.finfo(tensors[0].dtype).tiny
    return torch.stack([t.square().sum() for t in tensors]).sum().clamp_min(tiny).sqrt()
