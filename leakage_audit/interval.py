"""What rounding, signs and cutting off tell of a gradient's entries: that each lies in an interval."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """`lower ≤ g + noise ≤ upper`, entry by entry, and the sum of some entries, `Σ weights·g = total`.

    Attributes:
        lower: Shaped like the gradient g, in its units; −∞ where nothing is known.
        upper: Likewise; ∞ where nothing is known.
        std: Standard deviation of the noise that was there before.
        weights: Of the sum, shaped like the gradient; None where none is known.
        total: The sum.

    >>> import torch
    >>> sign = Interval(torch.tensor([0.0]), torch.tensor([torch.inf]), torch.zeros(1))
    >>> sign.known, sign.scaled(2.0).upper
    (tensor([True]), tensor([inf]))
    """

    lower: Tensor
    upper: Tensor
    std: Tensor
    weights: Tensor | None = None
    total: float = 0.0

    @property
    def known(self) -> Tensor:
        """Which entries have a bound, and are not told exactly."""
        return (self.lower.isfinite() | self.upper.isfinite()) & (self.lower < self.upper)

    def scaled(self, factor: float) -> "Interval":
        """The same of the gradient times a positive factor."""
        return replace(
            self, lower=self.lower * factor, upper=self.upper * factor, std=self.std * factor,
            total=self.total * factor,
        )  # fmt: skip

    def both(self, other: "Interval") -> "Interval":
        """What this and another tell together, the sum being this one's."""
        return replace(self, lower=self.lower.maximum(other.lower), upper=self.upper.minimum(other.upper))
