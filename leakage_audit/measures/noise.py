"""How much of each layer's system survives noise on the gradients: effective ranks and c_ε(M).

Let every entry of the gradient carry Gaussian noise of standard deviation ε times the gradient's root mean square,
and let an attacker believe beforehand that a layer's input has the standard deviation s that it has. In units of s
and of the noise, the layer's equations are u' = [a W; b K], a = s/std(z), b = s/std(g), and the posterior leaves each
direction of singular value σ' the share 1/(1 + σ'²) of its variance. So

    effective rank = Σ_j σ'_j²/(1 + σ'_j²) = n − tr (I + u'ᵀu')⁻¹
    c_ε(M) = Σ_i (d − (i − 1))/d · (effective rank − n_i)

count the equations that noise of size ε leaves standing; for ε → 0 they are rank(u) and c(M). Of the directions that u
determines, noise leaves the share `r = (tr(…) − (n − rank))/rank` unknown on average; that is as if their values had
been seen with variance `s²·r/(1 − r)`, and with this the walk enters the next layer, through σ⁻¹ (its root mean
square). As in c(M), what a deficient layer leaves open anyway is counted there and not again below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from leakage_audit.layerwise.block_cholesky import BlockCholesky, weight_gram_blocks
from leakage_audit.layerwise.factorization import TOLERANCE, Factor
from leakage_audit.layerwise.gram import gram_matrix
from leakage_audit.layerwise.gram_factors import FactorOptions
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.layerwise.recursion import sweep
from leakage_audit.networks.chain import read_chain
from leakage_audit.observation import Observation
from leakage_audit.options import Checked


@dataclass(frozen=True)
class NoiseOptions(Checked):
    """How traces are taken.

    Attributes:
        clearest: Largest squared singular value, in units of the noise, that float64 tells from the rest.
        smallest: Loss, in directions, below which there is only rounding.
        few: Unknowns up to which a dense inverse is quickest.
        spread: Standard deviation that the image is believed to have, as a share of its range: a photograph's.
        tolerance: Singular values of a layer's system below this share of the largest count as zero.
        factor: How the systems are factored.
    """

    clearest: float = 1e12
    smallest: float = 1e-9
    few: int = 1000
    spread: float = 0.25
    tolerance: float = TOLERANCE
    factor: FactorOptions = field(default_factory=FactorOptions)

    def __post_init__(self) -> None:
        self.check(("clearest", "smallest", "spread"), ("few",), ("tolerance",))


@dataclass(frozen=True)
class EffectiveLayer:
    """One layer under noise.

    Attributes:
        name: The layer's path in the network.
        unknowns: n_i.
        effective_rank: Equations that survive, at most rank(u⁽ⁱ⁾).
    """

    name: str
    unknowns: int
    effective_rank: float


@dataclass(frozen=True)
class EffectiveSecurity:
    """c_ε(M) and its layers, from the image up.

    Attributes:
        epsilon: The noise, as a share of the gradient's root mean square.
        c: c_ε(M), at most c(M).
        layers: The layers.
        options: How traces were taken.
    """

    epsilon: float
    c: float
    layers: tuple[EffectiveLayer, ...]
    options: NoiseOptions = NoiseOptions()


def effective_metric(
    seen: Observation, epsilons: Sequence[float], options: NoiseOptions = NoiseOptions()
) -> list[EffectiveSecurity]:
    """c_ε(M) at each noise level.

    Args:
        seen: What leaked.
        epsilons: Standard deviations of the noise on the gradients' entries, over their root mean square.
        options: How traces are taken.

    Returns:
        One result a noise level, in their order.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> seen = observe(models.build("cnn2_v2", image_size=12), torch.rand(3, 12, 12), 3)
        >>> strong, weak = effective_metric(seen, [1.0, 1e-6])
        >>> strong.c < weak.c < 0
        True

    Raises:
        UnreadableNetwork: If the network is no chain of known, invertible layers.
        ValueError: If an ε is not positive, or the gradients hold nothing.
    """
    if not all(epsilon > 0 for epsilon in epsilons):
        raise ValueError(f"noise levels must be positive, got {list(epsilons)}")
    problem = seen.problem()
    if problem is not None:
        raise ValueError(problem)
    seen = seen.to(torch.float64)
    chain = read_chain(seen.network, seen.input_shape)
    met: list[_Met] = []  # from the output down

    def solve(system: LayerSystem, i: int) -> Tensor:
        if i:
            factor = Factor(system, options.tolerance, options.factor)
            x, rank = factor.pseudo_inverse(system.v), factor.rank
        else:  # below the image there is nothing to enter
            low, high = seen.value_range
            x, rank = torch.full_like(system.z, (high - low) * options.spread / min(seen.std)), system.n
        met.append(_Met(system, float(x.square().mean().sqrt()), rank))
        return x if i else x.new_zeros(system.n)

    delta = sweep(chain, seen, solve).delta
    square, count = (
        sum(f(g) for g in seen.gradients.values()) for f in (lambda g: float(g.square().sum()), Tensor.numel)
    )
    return [_at(met, epsilon, epsilon * sqrt(square / count), float(delta.norm()), options) for epsilon in epsilons]


@dataclass(frozen=True)
class _Met:
    """A layer as the walk met it: its system, the spread s of its input, and its rank."""

    system: LayerSystem
    s: float
    rank: int


def _at(met: list[_Met], epsilon: float, noise: float, delta: float, options: NoiseOptions) -> EffectiveSecurity:
    layers: list[EffectiveLayer] = []
    deviation = noise / delta  # of the last layer's input, by Lemma 3.1
    for system, s, rank in ((m.system, m.s, m.rank) for m in met):
        slope = float(system.layer.activation.derivative(system.z).square().mean().sqrt())
        lost = _lost(system, s * slope / deviation, s / noise, options)
        layers.insert(0, EffectiveLayer(system.layer.name, system.n, system.n - lost))
        share = min(max(lost - (system.n - rank), options.smallest) / max(rank, 1), 1 - options.smallest)
        deviation = s * sqrt(share / (1 - share))
    d = len(layers)
    c = sum((d - i) / d * (layer.effective_rank - layer.unknowns) for i, layer in enumerate(layers))
    return EffectiveSecurity(epsilon, c, tuple(layers), options)


def _lost(system: LayerSystem, a: float, b: float, options: NoiseOptions) -> float:
    """`tr (I + a² WᵀW + b² KᵀK)⁻¹`, over n unknowns."""
    w, dz = system.weight, system.dz[0]
    size_w, size_k = float(w.square().sum()), float(dz.square().sum())  # bounds of the squared singular values
    a = min(a, sqrt(options.clearest / size_w)) if size_w > 0 else 1.0
    b = min(b, sqrt(options.clearest / size_k)) if size_k > 0 else 1.0
    small = min(system.n, system.equations)
    gradients = 0 if system.gradient is None else system.gradient.numel()
    if system.equations < system.n or small <= options.few or 4 * gradients > system.n:
        gram = a**2 * gram_matrix(system, b / a)
        gram[np.diag_indices(small)] += 1
        lower = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        inverse = scipy.linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)[0]
        return system.n - small + float(inverse.trace())
    diagonal, below = weight_gram_blocks(system)
    cholesky = BlockCholesky(
        [np.eye(len(block)) + a**2 * block for block in diagonal], [a**2 * block for block in below]
    )
    unread = system.n - system.layer.in_shape[0] * system.layer.pixels_read.size
    trace = cholesky.trace_of_inverse() + unread * a**2 / (1 + a**2)
    if not gradients:
        return trace
    order = np.arange(system.n).reshape(system.layer.in_shape).transpose(1, 2, 0).reshape(-1)
    k = b * system.gradient_matrix()[:, order]
    solved = cholesky.solve(np.ascontiguousarray(k.T))
    core = k @ solved
    core[np.diag_indices(len(core))] += 1
    return trace - float(np.trace(scipy.linalg.solve(core, solved.T @ solved, assume_a="pos")))
