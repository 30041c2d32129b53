"""Lemma 3.1: a fully connected layer gives its input away.

With `z = W x + b` and δ = ∂L/∂z, the gradients are `∂L/∂W = δ xᵀ` and `∂L/∂b = δ`. The bias gradient *is* δ, and
x is the least-squares solution of `δ xᵀ = ∂L/∂W`. Where δ is known otherwise, no bias is needed. The last layer
without a bias leaves one unknown, the scale of x; the loss settles it.
"""

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.networks.layer_types import Layer
from leakage_audit.observation import Observation


def input_from_gradient(weight_gradient: Tensor, delta: Tensor) -> Tensor:
    """x of `δ xᵀ = ∂L/∂W`, by least squares over the rows.

    Args:
        weight_gradient: ∂L/∂W, `(out, in)`.
        delta: ∂L/∂z, `(out,)`.

    Returns:
        x, `(in,)`.

    Raises:
        ValueError: If δ is zero, so that the gradient says nothing about x.
    """
    power = delta @ delta
    if not power > 0:
        raise ValueError("the derivative at a fully connected layer is zero: its gradient says nothing about its input")
    return weight_gradient.T @ delta / power


def delta_and_features(layer: Layer, seen: Observation) -> tuple[Tensor, Tensor]:
    """δ and x of the last layer, from its own gradients.

    Args:
        layer: The chain's last layer.
        seen: What leaked.

    Returns:
        ∂L/∂z `(classes,)` and the layer's input `(in,)`.

    Raises:
        ValueError: If the layer's gradients were not shared, or are zero, or if no scale fits the loss.
    """
    weight_gradient = seen.gradient_of(layer.name, "weight")
    delta = seen.gradient_of(layer.name, "bias")
    if weight_gradient is None:
        raise ValueError(f"the gradient of {layer.name}.weight was not shared: Lemma 3.1 has nothing to start from")
    if delta is None:
        delta = _derivative_without_bias(layer, seen, weight_gradient)
    return delta, input_from_gradient(weight_gradient, delta)


def _derivative_without_bias(layer: Layer, seen: Observation, weight_gradient: Tensor) -> Tensor:
    """δ = t·a for the rank-one gradient `s a bᵀ`: the t at which the loss at scores `W (s/t) b` has derivative t·a.

    A bias that was not trained is added to the scores.

    Raises:
        ValueError: If no scale fits the loss.
    """
    left, s, right = torch.linalg.svd(weight_gradient, full_matrices=False)
    label, _ = labels_for(seen)
    a, b = left[:, 0], right[0]
    if a[label[0]] > 0:
        a, b = -a, -b  # the true class is the one whose score the loss wants to raise
    direction = layer.weight.detach() @ b * s[0]
    bias = torch.zeros_like(direction) if layer.bias is None else layer.bias.detach()

    def derivative(t: float) -> Tensor:
        scores = (direction / t + bias).requires_grad_()
        loss = seen.loss(layer.activation.forward(scores)[None], label)
        return torch.autograd.grad(loss, scores)[0]

    def excess(log_t: float) -> float:
        t = math.exp(log_t)
        return float(derivative(t) @ a) - t

    # |δ| of cross entropy lies below √2; a layer close to zero loss may have a tiny one.
    grid = torch.linspace(-30.0, 2.0, 641).tolist()
    values = [excess(log_t) for log_t in grid]
    roots = [
        brentq(excess, low, high, xtol=1e-14, rtol=8.9e-16)
        for low, high, one, two in zip(grid, grid[1:], values, values[1:], strict=False)
        if one * two <= 0
    ]
    if not roots:
        raise ValueError(f"no scale of {layer.name}'s input fits the loss: is it the loss that was trained with?")
    scales = [math.exp(root) for root in roots]
    best = min(scales, key=lambda t: float((derivative(t) - t * a).norm()) / t)
    return best * a
