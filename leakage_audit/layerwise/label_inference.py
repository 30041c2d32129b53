"""Which classes a gradient was taken on, read from the last fully connected layer.

For cross entropy the layer's bias gradient is the average of δ = softmax(scores) − y: an entry can only be negative
where the class is in the batch (Zhao et al. 2020, "iDLG"). For several images the counts follow from how far each
entry lies below the average probability, which is read from the features that the layer's own gradient gives away
(Ma et al. 2023, "Instance-wise batch label restoration via gradients").
"""

import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from leakage_audit.layerwise.last_layer import last_layer, why_no_last_layer
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation


def labels_for(seen: Observation) -> tuple[Tensor, bool]:
    """The labels that an attack works with: those granted, otherwise those read from the gradient.

    Single image: the class of the one negative entry of the last bias gradient; without a bias, the class whose row
    of the last weight gradient points against all the others (with two classes these are opposite and the features
    are taken to be positive on average). Several images: the classes' counts, certain only as far as `least_counts`
    tells; which image has which label is nothing a gradient knows, so they come in ascending order.

    Returns:
        Labels `(B,)`, and whether they were inferred.

    Raises:
        ValueError: If no labels were granted and the network has no fully connected layer with a gradient to read.
        UnreadableNetwork: If the images have no single class each.
    """
    if seen.labels is not None:
        return seen.labels, False
    if not seen.class_targets:
        raise UnreadableNetwork(
            "labels cannot be inferred for binary, multi-label or soft targets: grant them with grant_labels=True"
        )
    if seen.batch_size == 1:
        return _delta(seen).argmin().reshape(1), True
    counts = _estimated_counts(seen)
    return torch.repeat_interleave(torch.arange(len(counts), device=seen.device), counts), True


def least_counts(seen: Observation, slack: float = 1e-5) -> Tensor:
    """How many images of each class the batch holds at least, for certain.

    The average of softmax(scores) − y over B images lies above minus the class's share, so a class whose entry is
    negative, −δ, occurs more than B·δ times. This needs the bias; without one nothing is certain for a batch.

    Args:
        seen: What leaked.
        slack: Relative rounding of δ that must not count as an image more; float32 leaves 1e-6.

    Returns:
        Counts `(classes,)`; they add up to at most the batch size.

    Raises:
        ValueError: As `labels_for`.
    """
    delta = _delta(seen)
    last = last_layer(seen)
    if last is None or last.features is None:
        certain = torch.zeros_like(delta, dtype=torch.long)
        return certain.scatter(0, delta.argmin(), 1) if seen.batch_size == 1 else certain
    return torch.where(delta < 0, torch.floor(-seen.batch_size * delta * (1 - slack)) + 1, 0).long()


def _delta(seen: Observation) -> Tensor:
    """The average δ of the last layer `(classes,)`: exact with a bias, up to a positive factor without one."""
    last = last_layer(seen)
    rows = None if last is None else last.weight_gradient
    if rows is None:
        why = why_no_last_layer(seen) or "the gradient of the last fully connected layer was not shared"
        raise ValueError(f"the labels cannot be inferred: {why}; grant them with observe(..., grant_labels=True)")
    if last is not None and last.delta is not None:
        return last.delta
    if seen.batch_size > 1:
        # Features positive on average, probabilities alike, and a class that the batch lacks: its δ is the largest.
        shares = rows.sum(1)
        return shares / shares.max().clamp_min(torch.finfo(shares.dtype).tiny) / len(shares)
    # Every row is δ_k xᵀ and only the label's δ_k is negative, so its row has a negative product with all the others.
    return (rows @ rows.T).sign().sum(1) + rows.sum(1).sign() / 2


def _estimated_counts(seen: Observation) -> Tensor:
    """Counts `(classes,)` that add up to the batch size, at least the certain ones."""
    size, delta, last = seen.batch_size, _delta(seen), last_layer(seen)
    p = delta.new_full((len(delta), len(delta)), 1 / len(delta))
    if last is not None and last.features is not None:
        p = torch.softmax(F.linear(last.features, last.weight, last.bias), 1).nan_to_num(1 / len(delta))
    # n_k images of class k have about the class's leaked features x_k, so B·δ = Σ_k n_k (softmax(W x_k + b) − e_k).
    system = torch.cat([p.T - torch.eye(len(delta), device=p.device, dtype=p.dtype), torch.ones_like(delta)[None]])
    right = torch.cat([size * delta, delta.new_tensor([float(size)])])
    real, _ = nnls(system.double().cpu().numpy(), right.double().cpu().numpy())
    least = least_counts(seen)
    # Noise on the gradient can promise more images than there are.
    certain = least if least.sum() <= size else torch.zeros_like(least)
    return _rounded(torch.as_tensor(real, device=delta.device), certain, size)


def _rounded(real: Tensor, least: Tensor, size: int) -> Tensor:
    """Whole numbers near `real`, no smaller than `least`, that add up to `size`."""
    counts = torch.maximum(least, real.floor().long())
    while counts.sum() > size:
        excess = torch.where(counts > least, counts - real, -torch.inf)
        counts[excess.argmax()] -= 1
    while counts.sum() < size:
        counts[(real - counts).argmax()] += 1
    return counts
