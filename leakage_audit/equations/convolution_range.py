"""What a convolution's weight gradient says of its inputs by itself: all of them, up to a mixing of the images.

For each tap t of the kernel `G_t = Σ_b D_b R_t A_b`, with `A_b (P × c_in)` the input of image b, `D_b (c_out × Q)` the
derivative at its output, and `R_t (Q × P)` the selection of the input position that each output position reads through
t; rows of zeros stand for the padding. Neither weights nor loss, labels or layers above enter.

Let A, the A_b stacked, have rank B·P, and K = A⁺. Then `G_t K_b = D_b R_t` for all t, linear in (K_b, D_b). With stride
one, overlapping windows tie all positions together, so the only solutions are the K_b, mixed by any B × B matrix: the
null space has one dimension an image. (With stride two it has several, and is refused.) D_b is eliminated, output
position by output position: column q of D_b is the mean over the taps of `G_t K_b e_p(t,q)`. What is left is a Gram
matrix in the P columns of K_b, each in the row space of A.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.runtime import Budget, OutOfMemory


@dataclass(frozen=True)
class ConvolutionRangeOptions:
    """What counts as a null space.

    Attributes:
        gap: Least ratio of the first eigenvalue beyond the null space to the last within; both are squares.
        rank_gap: Least ratio of the singular values at the rank of A; float32 gradients give 10 and more.
        extra: Dimensions beyond the null space that are sought, to see the gap.
        iterations: Of subspace iteration on the inverse; each gains the gap.
        seed: Of the subspace iteration's start.
    """

    gap: float = 1e3
    rank_gap: float = 3.0
    extra: int = 4
    iterations: int = 6
    seed: int = 0


@dataclass(frozen=True)
class MixedInputs:
    """The inputs of all images, mixed.

    Attributes:
        values: B combinations of the images' inputs, `(B, P, c_in)`.
        noise: Relative error to expect of them: of the null space, as its eigenvalues tell.
        below: Largest eigenvalue of the null space, as a share of the Gram matrix' mean.
        above: The next one.
    """

    values: Tensor
    noise: float
    below: float
    above: float


def reads(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Which input position each output position reads through each tap, `(taps, Q)`; −1 in the padding.

    Example:
        >>> reads((1, 3), (1, 3), (1, 1), (0, 1)).tolist()
        [[-1, 0, 1], [0, 1, 2], [1, 2, -1]]
    """
    lines = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        count = (n + 2 * p - d * (k - 1) - 1) // s + 1
        line = torch.arange(k)[:, None] * d + torch.arange(count) * s - p
        lines.append(torch.where((line >= 0) & (line < n), line, -1))
    rows, columns = lines
    place = rows[:, None, :, None] * size[1] + columns[None, :, None, :]
    inside = (rows[:, None, :, None] >= 0) & (columns[None, :, None, :] >= 0)
    return torch.where(inside, place, -1).flatten(2).flatten(0, 1)


def mixed_inputs(
    gradient: Tensor,
    read: Tensor,
    positions: int,
    rounding: float,
    options: ConvolutionRangeOptions | None = None,
    budget: Budget | None = None,
    max_memory_gb: float = 1.0,
) -> MixedInputs | None:
    """The inputs of a convolution up to a mixing of the images, whose number is found on the way.

    Args:
        gradient: ∂L/∂w, `(c_out, c_in, k, k)`, in float64.
        read: Its geometry, by `reads`.
        positions: P, positions of the input; every one must be read.
        rounding: Relative rounding of the gradient's own type.
        options: What counts as a null space.
        budget: Limits of time and memory.
        max_memory_gb: Memory for the Gram matrix and its factor.

    Returns:
        None if A has not the rank B·P for any B, the null space not the dimension B, the gap is missing, or memory
        does not suffice.

    Raises:
        OutOfTime: If there is not as much time left.
    """
    options, budget = options or ConvolutionRangeOptions(), budget or Budget()
    taps = gradient.flatten(2).permute(2, 0, 1)  # (taps, c_out, c_in)
    for images, basis in _ranks(taps, positions, rounding, options.rank_gap):
        n = basis.shape[1]
        size, pairs = n * positions, len(taps) ** 2
        if 16 * size**2 > max_memory_gb * 1e9:
            return None
        # A product a pair of taps, then a sum an output position; a factor, and its solutions by subspace iteration.
        flops = 2.0 * pairs * n**2 * (len(gradient) + read.shape[1])
        flops += size**3 + 4 * options.iterations * size**2 * (images + options.extra)
        try:
            budget.require("a convolution's null space", 16 * size**2, flops)
        except OutOfMemory:
            return None
        values, vectors = smallest_vectors(
            eliminated_gram(taps @ basis, read, positions), images + options.extra, options
        )
        below, above = float(values[:images].abs().max()), float(values[images])
        if above < options.gap * max(below, 1e-16):
            continue
        k = vectors[:, :images].reshape(positions, n, images).permute(1, 2, 0).reshape(n, -1)  # (n, B P)
        mixed = torch.linalg.solve(k, basis.T).reshape(images, positions, -1)
        return MixedInputs(mixed, (max(below, 1e-18) / above) ** 0.5, below, above)
    return None


def _ranks(taps: Tensor, positions: int, rounding: float, gap: float) -> Iterator[tuple[int, Tensor]]:
    """Numbers of images B that the rank may stand for, the clearest first, with a basis of A's row space.

    Where A has as many columns as rows nothing lies beyond the rank; then no direction may be hidden by rounding.
    """
    values, vectors = torch.linalg.eigh(torch.einsum("toi,toj->ij", taps, taps))
    s = values.flip(0).clamp_min(0).sqrt()
    s = torch.cat([s, s.new_zeros(1)]).clamp_min(0.1 * max(rounding, 1e-8) * float(s[0]))
    found = []
    for images in range(1, (len(s) - 1) // positions + 1):
        n = images * positions
        ratio = float(s[n - 1] / s[n])
        if (ratio > gap) if n < len(s) - 1 else bool(s[n - 1] > rounding * s[0]):
            found.append((ratio, images))
    for _, images in sorted(found, reverse=True)[:3]:
        yield images, vectors.flip(1)[:, : images * positions]


def eliminated_gram(taps: Tensor, read: Tensor, positions: int) -> Tensor:
    """The Gram matrix of the equations in K_b's columns, D_b eliminated, `(P n, P n)`, of mean diagonal one."""
    n = taps.shape[2]
    products = torch.einsum("toi,soj->tsij", taps, taps) if len(taps) * n < 3000 else None
    gram = taps.new_zeros(positions, n, positions, n)
    own = sum(tap.T @ tap for tap in taps)
    for p in range(positions):
        gram[p, :, p] += own
    pairs: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for column in read.T.tolist():  # one output position
        used = [(t, p) for t, p in enumerate(column) if p >= 0]
        for t, p in used:
            for s, r in used:
                pairs.setdefault((t, s), []).append((p, r, 1 / len(used)))
    for (t, s), places in pairs.items():
        product = products[t, s] if products is not None else taps[t].T @ taps[s]
        for p, r, weight in places:
            gram[p, :, r] -= weight * product
    gram = gram.reshape(positions * n, -1)
    return gram.div_(gram.diagonal().mean())


def smallest_vectors(gram: Tensor, count: int, options: ConvolutionRangeOptions) -> tuple[Tensor, Tensor]:
    """The smallest eigenvalues and their vectors by subspace iteration on the inverse; `gram` is overwritten."""
    generator = torch.Generator().manual_seed(options.seed)
    count = min(count, len(gram))
    q = torch.randn(len(gram), count, generator=generator, dtype=gram.dtype).to(gram)
    shift = 1e-13 * len(gram) ** 0.5
    diagonal = gram.diagonal()
    diagonal += shift
    factor = torch.linalg.cholesky(gram)
    for _ in range(options.iterations):
        q = torch.linalg.qr(torch.cholesky_solve(q, factor))[0]
    values, rotation = torch.linalg.eigh(q.T @ (gram @ q))
    return values - shift, q @ rotation
