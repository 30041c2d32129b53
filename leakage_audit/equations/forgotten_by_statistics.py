"""What batch statistics forget of the input of a layer below them, told by what lies below the input.

Gradients of a normalised layer do not depend on its input's common size, but for ε, nor, with stride two, on one
constant a channel (`batch_statistics`): no residual tells of either. The input is a rectifier's output, and what the
layers hand down to that, summed over the images and positions where it was on, is ∂L/∂β of the normalisation below it,
channel by channel. What comes by way of normalised layers is inverse to the size, what comes by others is not: most
channels must agree on one size.

A constant is known where the rectifier was off, since zero is then attained. That it was is certain where several
positions share the least value, which no chance does, or where ∂L/∂β holds with the lowest position off and does not
with it on. Otherwise the channel's constant is left open.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from leakage_audit.options import Checked


@dataclass(frozen=True)
class ForgottenOptions(Checked):
    """When a size or a constant counts as told.

    Attributes:
        tells: Error of a sum, relative to the root mean square of all, up to which it agrees with the common size.
        agree: Least share of sums that do: one unit that was wrongly taken to be on or off spoils its channel's.
        zeros: Positions that share a channel's least value, from which on they are zero.
        decides: Factor by which one state of the lowest position must leave less of a sum than the other does.
        near: Units of a channel, those nearest the cut, that are switched together where its sum does not agree.
        doubt: Factor from the cut up to which a unit may be switched alone.
        tight: Error of such a sum, in medians of those that agree, up to which it then does.
        same: Relative difference up to which what follows from below is what was found above, where that is certain.
    """

    tells: float = 1e-3
    agree: float = 0.6
    zeros: int = 2
    decides: float = 30.0
    near: int = 8
    doubt: float = 25.0
    tight: float = 10.0
    same: float = 1e-3

    def __post_init__(self) -> None:
        self.check(positive=("tells", "zeros", "decides"), share=("agree",))


@dataclass(frozen=True)
class Lowest:
    """Entries that a channel's constant is told by.

    Attributes:
        places: Those with the least value of their channel where the constant is open, in channels where they are too
            few to be zero for certain, `(B, C, …)`.
        where: The positions of the constant, `(B, …)`.
    """

    places: Tensor
    where: Tensor

    @classmethod
    def of(cls, value: Tensor, noise: Tensor, where: Tensor, cut: float, zeros: int) -> "Lowest":
        """Of an input, each channel as low as it can be.

        Args:
            value: `(B, C, H, W)`.
            noise: Standard deviation of its entries.
            where: The positions of the constant, `(B, H, W)`.
            cut: Standard deviations within which an entry is as low as another.
            zeros: How many at the least value are zero for certain.
        """
        places = (value <= cut * noise) & where[:, None]
        few = places.sum((0, *range(2, value.ndim)), keepdim=True) < zeros
        return cls(places & few, where)

    def open(self, told: "Size") -> Tensor:
        """Where a channel's constant is open, `(B, C, …)`."""
        few = self.places.sum((0, *range(2, self.places.ndim))) > 0
        return self.where[:, None] & self._of(few & ((told.state == 1) | ~told.certain))

    def uncertain(self, told: "Size", value: Tensor, noise: Tensor) -> Tensor:
        """The noise of an input where constants are open: as much as the channel varies there."""
        where = self.where[:, None].expand_as(value).to(value)
        axes = (0, *range(2, value.ndim))
        size = ((value.square() * where).sum(axes, keepdim=True) / where.sum(axes, keepdim=True)).sqrt()
        return torch.where(self.open(told), size.expand_as(noise), noise)

    def _of(self, channels: Tensor) -> Tensor:
        return channels.view(1, -1, *[1] * (self.places.ndim - 2))


@dataclass(frozen=True)
class Size:
    """A common size.

    Attributes:
        size: Of the input, relative to the one that was supposed.
        share: Of the sums that agree.
        state: Which of the alternatives each channel's sum bears out.
        certain: In which channels no other one comes near.
        wrong: Channels that agree in none.
        usual: Median error of the sums that agree.
    """

    size: float
    share: float
    state: Tensor
    certain: Tensor
    wrong: Tensor
    usual: float

    def on(self, places: Tensor) -> Tensor:
        """Those of some places `(B, C, …)` whose channel is in the second state."""
        return places & (self.state == 1).view(1, -1, *[1] * (places.ndim - 2))

    def missed(self, varies: Tensor, sums: Tensor) -> Tensor:
        """By how much each channel's sum is too large, `(C,)`; see `common_size`."""
        return (varies / self.size - sums).gather(0, self.state[None])[0]


def common_size(varies: Tensor, sums: Tensor, options: ForgottenOptions = ForgottenOptions()) -> Size | None:
    """The s with `varies/s = sums` in most channels, whichever of its alternatives holds in each.

    Args:
        varies: What is inverse to the size, `(alternatives, channels)`.
        sums: What it should be, likewise.
        options: When they agree.

    Returns:
        None where too few do.

    >>> found = common_size(torch.tensor([[2.0, 4.0, 1.0, -6.0]]), torch.tensor([[1.0, 2.0, 7.0, -3.0]]))
    >>> found.size, found.share
    (2.0, 0.75)
    """
    large = varies.abs() > 1e-3 * varies.abs().max()
    if not varies.any() or not large.any():
        return None
    allowed = options.tells * float(sums.square().mean().sqrt())
    ratios = (sums / varies)[large].unique()
    errors = torch.stack([(varies * inverse - sums).abs().amin(0) for inverse in ratios])
    inverse = float(ratios[(errors < allowed).sum(1).argmax()])
    for _ in range(3):
        error, state = (varies * inverse - sums).abs().min(0)
        agrees = error < allowed
        share = float(agrees.double().mean())
        if share < options.agree:
            return None
        own, right = (t.gather(0, state[None])[0][agrees] for t in (varies, sums))
        inverse = float(own @ right / (own @ own).clamp_min(1e-300))
    if not inverse > 0:
        return None
    left = (varies * inverse - sums).abs()
    others = left.scatter(0, left.argmin(0)[None], torch.inf).amin(0)
    best = left.amin(0)
    certain = (best < allowed) & (others > options.decides * best)
    return Size(1 / inverse, share, left.argmin(0), certain, best >= allowed, float(best[best < allowed].median()))


def agree(one: Tensor, other: Tensor, but_for: Tensor, same: float) -> bool:
    """Whether two values are the same, but for some entries."""
    difference, size = (t.where(~but_for, 0.0).norm() for t in (one - other, other))
    return bool(difference <= same * size)
