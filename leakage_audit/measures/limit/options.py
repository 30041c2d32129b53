"""How a limit is computed, and how precisely the shared gradient is known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakage_audit.equations.base import relative_error_of, rms
from leakage_audit.options import Checked

Noise = float | Mapping[str, float | Tensor]


@dataclass(frozen=True)
class GradientNoise:
    """Gaussian noise on each shared gradient, independent from entry to entry, beyond the rounding of its type.

    The variances of rounding, `std` and `relative` add up.

    Attributes:
        std: Standard deviation in the gradient's own units, one for all parameters or by name (0 where not named),
            or shaped like each gradient, infinite where an entry tells nothing: what DP-SGD adds, noise multiplier ×
            clipping norm / batch size, or what is known of a defence (`Observation.noise`).
        relative: Standard deviation over the root mean square of the parameter's gradient, likewise.

    Raises:
        ValueError: If one is negative or not finite.
    """

    std: Noise = 0.0
    relative: Noise = 0.0

    def __post_init__(self) -> None:
        for given in (self.std, self.relative):
            values: list[float | Tensor] = list(given.values()) if isinstance(given, Mapping) else [given]
            if not all(bool((v >= 0).all()) if isinstance(v, Tensor) else 0 <= v < math.inf for v in values):
                raise ValueError(f"noise must be finite and not negative, got {given}")

    def of(self, gradients: Mapping[str, Tensor], dtype: torch.dtype, least: float) -> dict[str, Tensor]:
        """Standard deviation of each gradient's entries, one for all of them or shaped like it.

        Args:
            gradients: ∂L/∂p by parameter name.
            dtype: The type in which they were shared, which rounds them.
            least: Least relative standard deviation.

        Raises:
            ValueError: If noise is given for a parameter whose gradient was not shared.
        """
        rounding = max(relative_error_of(dtype), least)
        for given in (self.std, self.relative):
            if isinstance(given, Mapping) and not set(given) <= set(gradients):
                raise ValueError(f"no gradient was shared of {', '.join(sorted(set(given) - set(gradients)))}")
        return {
            name: torch.hypot(
                torch.hypot(g.new_tensor(rounding * rms(g)), _of(self.std, name, g)),
                _of(self.relative, name, g) * rms(g),
            )
            for name, g in gradients.items()
        }


def _of(given: Noise, name: str, like: Tensor) -> Tensor:
    value = given.get(name, 0.0) if isinstance(given, Mapping) else given
    return torch.as_tensor(value).to(like)


@dataclass(frozen=True)
class NumericsOptions(Checked):
    """What counts as rounding, and how much is done at a time: nothing that a limit is meant to depend on.

    Attributes:
        corrections: Of a solution by what it leaves of the normal equations, which lose half the digits; two restore
            them (Björck 1987).
        lost: Share of the largest entry of `JᵀJ`, in units of the noise, that its rounding in float64 may be: what
            pivoting leaves below it is none of the gradient's.
        low_rank: Share of the unknowns up to which a `JᵀJ` of lower rank is taken as that many equations: the cost of
            a reweighting then falls with the cube of the rank.
        rough: Relative error in its own norm of a system whose picture only tells where to ask the prior anew.
        products_by_old_factor: Products after which factoring anew is the cheaper way.
        typical: Reweightings that a picture takes to settle, by which the cost is foreseen.
        passes_at_once: Reverse passes at a time; beyond, they leave the processor's cache without going faster.
        same: Relative difference of scores in float64 that is rounding: whether images mix.
        probes: Random changes of the images that tell whether a gradient keeps its rank.
        dependent: Singular values of a gradient below this share of its largest are rounding of float64.
        outside: Share of a derivative's norm outside the tangent space, or between two ways to make one, that may be
            rounding.
        difference: Of the images, relative to their norm, by which it is seen what the gradient hides: its rounding
            is 1e-8 of the effect, and hardly a rectifier flips.
        room: Directions by which the room for them grows.
        least_directions: Directions that must fit in memory.
        flat: Eigenvalues of the small system below this share of its largest are rounding of float64.
    """

    corrections: int = 2
    lost: float = 1e-15
    low_rank: float = 0.7
    rough: float = 1e-5
    products_by_old_factor: int = 12
    typical: int = 8
    passes_at_once: int = 16
    same: float = 1e-9
    probes: int = 2
    dependent: float = 1e-10
    outside: float = 1e-8
    difference: float = 1e-8
    room: int = 64
    least_directions: int = 8
    flat: float = 1e-16

    def __post_init__(self) -> None:
        self.check(
            ("typical", "passes_at_once", "probes", "room", "least_directions"),
            ("corrections", "products_by_old_factor"),
        )
        self.check(share=("lost", "low_rank", "same", "dependent", "outside", "flat", "rough", "difference"))


@dataclass(frozen=True)
class LimitOptions(Checked):
    """Settings of `reconstruction_limit`; the prior's reweighting follows the Joint attack's defaults.

    Attributes:
        noise: Of the shared gradient, beyond its rounding: none, as in plain federated learning.
        max_memory_gb: Memory for the Jacobian and what is made of it, as Joint's.
        max_dense_flops: Most floating point operations on dense matrices. Ten such matrices of a small network's batch
            take a minute on one core at 5e12; beyond that conjugate directions say more for the same time.
        max_reweightings: Most times that the prior is asked anew: Joint's `max_steps`.
        settled: Root mean square change of the images, in [0, 1], below which the reweighting has settled. Joint's
            rule; a non-convex prior's path depends on where it ends.
        products: Most products with J and Jᵀ in all without a Jacobian.
        products_per_reweighting: Of these, how many at most before the prior is asked anew. Few lose nothing, since
            the directions found so far are kept.
        tolerance: Without a Jacobian, the relative error in the prior's norm below which the linear system is solved.
            It bounds the error of the picture, so a hundredth is a hundredth of what the picture differs from grey.
        rank_tolerance: Share of the largest singular value of J, in units of the noise, below which one counts as
            zero: the same ranks were found from 1e-6 to 1e-12.
        rows_per_unknown: Equations kept per unknown; more are summed up with random signs, each in units of its noise
            and all of them together, as in no layer alone they need be so many. Four lose up to 0.6 dB under noise,
            two 2.5, and no null space.
        least_noise: Least relative standard deviation of a gradient's entry. Below it normal equations in float64
            lose what the prior says, so a float64 gradient's limit is that of one known to this precision.
        cancelled: Gradients below this share of the largest (root mean square) are rounding only, such as those of a
            bias before batch normalisation, and say nothing.
        hidden: Share of what another picture's change of scale would change of the gradient, below which the gradient
            hides the images' scale, which is then granted: 0.003 with batch statistics, from 0.4 up without.
        uncertainty: Whether to compute standard deviations (costs about as much as one to two reweightings).
        seed: Of the random sums.
        numerics: What counts as rounding, and how much is done at a time.

    Raises:
        ValueError: If a number is out of range.
    """

    noise: GradientNoise = field(default_factory=GradientNoise)
    max_memory_gb: float = 2.0
    max_dense_flops: float = 5e12
    max_reweightings: int = 30
    settled: float = 1.5e-3
    products: int = 3000
    products_per_reweighting: int = 40
    tolerance: float = 1e-2
    rank_tolerance: float = 1e-6
    rows_per_unknown: float = 4.0
    least_noise: float = 1e-7
    cancelled: float = 1e-10
    hidden: float = 0.05
    uncertainty: bool = True
    seed: int = 0
    numerics: NumericsOptions = field(default_factory=NumericsOptions)

    def __post_init__(self) -> None:
        self.check(("max_memory_gb", "settled", "tolerance", "rank_tolerance", "least_noise"))
        self.check(not_negative=("max_dense_flops", "cancelled", "hidden"))
        for name in ("max_reweightings", "products", "products_per_reweighting", "rows_per_unknown"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"LimitOptions.{name} must be at least 1, got {getattr(self, name)}")
