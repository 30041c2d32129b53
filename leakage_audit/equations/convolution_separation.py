"""The inputs of a convolution, image by image, from its weight gradient alone.

The gradient gives the inputs of all images up to a mixing (`convolution_range`). Behind a rectifier an input is zero in
many places and negative nowhere, so the images' own inputs are the sparsest basis of what is mixed.

What is returned is certified: the rank of the gradient is the dimension of the null space times the number of
positions, with a gap behind both; each input is normal to a set of entries that leaves one dimension open, far more
than chance gives; none of its entries is negative; and together they reproduce the gradient to its rounding. A
convolution's gradient cannot tell an input from a multiple of it: where the layer has a bias its gradient does.
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakage_audit.equations.convolution_range import ConvolutionRangeOptions, MixedInputs, mixed_inputs, reads
from leakage_audit.equations.sparsest_basis import SparsestBasisOptions, sparsest_basis
from leakage_audit.networks.layer_types import Convolution
from leakage_audit.networks.tracing import convolutions_met
from leakage_audit.observation import Observation
from leakage_audit.runtime import Budget, OverBudget

LEAST_SQUARES = 3  # n³ operations, at the speed of a product, that `lstsq` takes; 2 to 3 were measured


@dataclass(frozen=True)
class ConvolutionSeparationOptions:
    """When a combination of mixed inputs counts as an image's.

    Attributes:
        noise: Errors of a mixed entry, as shares of the root mean square, to try in turn: float32 gradients err by
            1e-7 or more, as the null space is conditioned.
        agrees: Relative residual of the gradient up to which inputs and derivatives reproduce it.
        negative: Most entries below zero, as a share, that noise may cause.
        range: What counts as a null space.
        basis: How the sparsest basis is searched for.
    """

    noise: tuple[float, ...] = (1e-6, 1e-5, 1e-4)
    agrees: float = 1e-4
    negative: float = 1e-3
    range: ConvolutionRangeOptions = field(default_factory=ConvolutionRangeOptions)
    basis: SparsestBasisOptions = field(
        default_factory=lambda: SparsestBasisOptions(min_share=0.05, alike=0.5, nonnegative=True)
    )


@dataclass(frozen=True)
class ConvolutionInputs:
    """The inputs of one convolution.

    Attributes:
        layer: The convolution's name.
        inputs: Of each image, `(B, c_in, H, W)`, in any order.
        derivatives: ∂L/∂z at its output, `(B, c_out, H', W')`; a multiple where the input is one.
        scaled: Whether inputs and derivatives have their size; else each input has unit root mean square.
        noise: Standard deviation of the entries, relative to the root mean square, `(B,)`.
        below: Largest eigenvalue of the null space.
        above: The next one: their ratio is the certificate that the inputs span what they should.
    """

    layer: str
    inputs: Tensor
    derivatives: Tensor
    scaled: bool
    noise: Tensor
    below: float
    above: float


def separate_convolution(
    seen: Observation,
    layer: str,
    rounding: float,
    options: ConvolutionSeparationOptions | None = None,
    budget: Budget | None = None,
    max_memory_gb: float = 1.0,
    geometry: Convolution | None = None,
) -> ConvolutionInputs | None:
    """Each image's input of a convolution that follows a rectifier; the number of images is found on the way.

    Args:
        seen: What leaked, in float64.
        layer: The convolution's name.
        rounding: Relative rounding of the gradients' own type.
        options: When a combination of mixed inputs counts as an image's.
        budget: Time limit.
        max_memory_gb: Memory for the null space's Gram matrix and its factor.
        geometry: The layer's shapes, if they are known (`geometries_of`).

    Returns:
        None if the layer is grouped or its windows do not overlap, if there are too few channels for the images'
        positions (c_in < B·P) or some are dead, or if no full set of inputs is certified.

    Raises:
        OutOfTime: If there is not as much time left as its null space takes.
        ValueError: If the network has no such convolution.
    """
    options, budget = options or ConvolutionSeparationOptions(), budget or Budget()
    geometry = geometry or geometries_of(seen).get(layer)
    if geometry is None:
        raise ValueError(f"the network has no convolution {layer!r}")
    gradient = seen.gradient_of(layer, "weight")
    if gradient is None or geometry.groups > 1 or gradient[0, 0].numel() == 1:
        return None
    _, height, width = geometry.in_shape
    positions = height * width
    kernel = (geometry.weight.shape[2], geometry.weight.shape[3])
    read = reads((height, width), kernel, geometry.stride, geometry.padding, geometry.dilation)
    if gradient.shape[1] < positions or len(read[read >= 0].unique()) < positions:
        return None
    mixed = mixed_inputs(gradient, read, positions, rounding, options.range, budget, max_memory_gb)
    if mixed is None:
        return None
    for noise in options.noise:
        inputs = None if budget.exhausted else _unmixed(mixed, noise, options, budget, max_memory_gb)
        if inputs is not None:
            return _certified(inputs, noise, mixed, gradient, read, geometry, seen, options, budget)
    return None


def _unmixed(
    mixed: MixedInputs, noise: float, options: ConvolutionSeparationOptions, budget: Budget, memory: float
) -> Tensor | None:
    """The sparsest basis `(B, P, c_in)`, of unit root mean square; None where it is incomplete or has signs."""
    images = len(mixed.values)
    rows = mixed.values.flatten(1).T
    u, _, _ = torch.linalg.svd(rows, full_matrices=False)
    rows = u * len(u) ** 0.5
    vectors = rows.new_ones(1, 1)
    if images > 1:
        vectors = sparsest_basis(rows, noise, options.basis, budget, memory).vectors
    if len(vectors) < images:
        return None
    found = vectors @ rows.T
    found = found * found.sum(1, keepdim=True).sign()
    found = found / found.square().mean(1, keepdim=True).sqrt()
    if float((found < -options.basis.cut * noise * images**0.5).double().mean(1).max()) > options.negative:
        return None
    return found.reshape(mixed.values.shape)


def _certified(
    inputs: Tensor,
    noise: float,
    mixed: MixedInputs,
    gradient: Tensor,
    read: Tensor,
    geometry: Convolution,
    seen: Observation,
    options: ConvolutionSeparationOptions,
    budget: Budget,
) -> ConvolutionInputs | None:
    """Derivatives by least squares, sizes by the bias; None if the gradient is not reproduced, or not in time."""
    images, _, channels = inputs.shape
    unknowns, windows = images * read.shape[1], gradient[0].numel()
    try:
        flops = 2 * unknowns**2 * (windows + len(gradient)) + LEAST_SQUARES * unknowns**3
        budget.require("a convolution's derivatives", 8 * unknowns * (2 * windows + 3 * unknowns), flops)
    except OverBudget:
        return None
    padded = torch.cat([inputs, inputs.new_zeros(images, 1, channels)], 1)
    # G_t = Σ_b D_b R_t A_b, as (c_out) × (B Q) times (B Q) × (taps c_in).
    known = (
        padded[:, read.flatten().to(inputs.device)]
        .unflatten(1, read.shape)
        .permute(0, 2, 1, 3)
        .flatten(0, 1)
        .flatten(1)
    )
    right = gradient.flatten(2).transpose(1, 2).flatten(1)  # (c_out, taps c_in)
    normal = known @ known.T
    derivative = torch.linalg.lstsq(normal, known @ right.T).solution.T
    residual = float((derivative @ known - right).norm() / right.norm())
    if residual > options.agrees:
        return None
    derivatives = derivative.reshape(len(gradient), images, *geometry.out_shape[1:]).transpose(0, 1)
    bias, scaled = seen.gradient_of(geometry.name, "bias"), False
    if bias is not None and bias.any():
        sums = derivatives.flatten(2).sum(2).T  # (c_out, B)
        sizes = torch.linalg.lstsq(sums, bias[:, None]).solution[:, 0]
        if float((sums @ sizes - bias).norm()) < options.agrees * 10 * float(bias.norm()) and bool((sizes > 0).all()):
            scaled = True
            derivatives, inputs = derivatives * sizes[:, None, None, None], inputs / sizes[:, None, None]
    maps = inputs.transpose(1, 2).reshape(images, *geometry.in_shape)
    errors = inputs.new_full((images,), noise)
    return ConvolutionInputs(geometry.name, maps, derivatives, scaled, errors, mixed.below, mixed.above)


def geometries_of(seen: Observation) -> dict[str, Convolution]:
    """All convolutions' shapes by name, from one grey image through a copy of the network."""
    met = convolutions_met(copy.deepcopy(seen.network).eval(), seen.input_shape)
    return {convolution.name: convolution for convolution in met[::-1] if isinstance(convolution, Convolution)}
