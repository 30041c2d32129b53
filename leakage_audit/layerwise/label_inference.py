"""Which classes a gradient was taken on, read from the last fully connected layer.

For cross entropy the layer's bias gradient is the average of δ = softmax(scores) − y: an entry can only be negative
where the class is in the batch (Zhao et al. 2020, "iDLG"). For several images the counts follow from how far each
entry lies below the average probability, which is read from the features that the layer's own gradient gives away
(Ma et al. 2023, "Instance-wise batch label restoration via gradients").
"""

import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation


def last_linear(network: nn.Module) -> tuple[str, nn.Linear] | None:
    """The last fully connected layer in the order of definition, with its name; None if there is none."""
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return found[-1] if found else None


def leaked_features(seen: Observation) -> tuple[Tensor, Tensor] | None:
    """The last layer's δ and the features that its gradient gives away, class by class (Lemma 3.1).

    Row k of ∂L/∂W divided by entry k of ∂L/∂b is the image's features for a single image, and an average of the
    images' features, dominated by those of class k, for a batch.

    Returns:
        The bias gradient `(classes,)` and the quotients `(classes, features)`, rows of zeros where δ is zero; None
        without a fully connected layer that has a bias and both gradients.
    """
    layer = last_linear(seen.network)
    if layer is None:
        return None
    prefix = f"{layer[0]}." if layer[0] else ""
    weight, bias = seen.gradients.get(f"{prefix}weight"), seen.gradients.get(f"{prefix}bias")
    if weight is None or bias is None:
        return None
    return bias, torch.where(bias[:, None] == 0, 0, weight / bias[:, None])


def labels_for(seen: Observation) -> tuple[Tensor, bool]:
    """The labels that an attack works with: those granted, otherwise those read from the gradient.

    Single image: the class of the one negative entry of the last bias gradient; without a bias, the class whose row
    of the last weight gradient points against all the others (with two classes these are opposite and the features
    are taken to be positive on average). Several images: the classes' counts, certain only as far as `least_counts`
    tells; which image has which label is nothing a gradient knows, so they come in ascending order.

    Returns:
        Labels `(B,)`, and whether they were inferred.

    Raises:
        ValueError: If no labels were granted and the network has no fully connected layer with a gradient to read, or
            the images have no single class each.
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


def least_counts(seen: Observation) -> Tensor:
    """How many images of each class the batch holds at least, for certain.

    The average of softmax(scores) − y over B images lies above minus the class's share, so a class whose entry is
    negative, −δ, occurs more than B·δ times. This needs the bias; without one nothing is certain for a batch.

    Returns:
        Counts `(classes,)`; they add up to at most the batch size.

    Raises:
        ValueError: As `labels_for`.
    """
    delta = _delta(seen)
    leaked = leaked_features(seen)
    if leaked is None:
        certain = torch.zeros_like(delta, dtype=torch.long)
        return certain.scatter(0, delta.argmin(), 1) if seen.batch_size == 1 else certain
    return torch.where(delta < 0, torch.floor(-seen.batch_size * delta * (1 - 1e-5)) + 1, 0).long()


def _delta(seen: Observation) -> Tensor:
    """The average δ of the last layer `(classes,)`: exact with a bias, up to a positive factor without one."""
    leaked = leaked_features(seen)
    if leaked is not None:
        return leaked[0]
    layer = last_linear(seen.network)
    rows = seen.gradients.get(f"{layer[0]}.weight" if layer[0] else "weight") if layer is not None else None
    if rows is None:
        raise ValueError(
            "the labels cannot be inferred: the network has no fully connected layer with an observed gradient; "
            "grant them with observe(..., grant_labels=True)"
        )
    if seen.batch_size > 1:
        # Features positive on average, probabilities alike, and a class that the batch lacks: its δ is the largest.
        shares = rows.sum(1)
        return shares / shares.max().clamp_min(torch.finfo(shares.dtype).tiny) / len(shares)
    # Every row is δ_k xᵀ and only the label's δ_k is negative, so its row has a negative product with all the others.
    return (rows @ rows.T).sign().sum(1) + rows.sum(1).sign() / 2


def _estimated_counts(seen: Observation) -> Tensor:
    """Counts `(classes,)` that add up to the batch size, at least the certain ones."""
    size, delta, leaked, layer = seen.batch_size, _delta(seen), leaked_features(seen), last_linear(seen.network)
    p = delta.new_full((len(delta), len(delta)), 1 / len(delta))
    if leaked is not None and layer is not None:
        with torch.no_grad():
            p = torch.softmax(layer[1](leaked[1]), 1).nan_to_num(1 / len(delta))
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
