"""Total variation as a differentiable penalty, in the two forms that first-order attacks use."""

import torch
import torch.nn.functional as F
from torch import Tensor


def total_variation(x: Tensor, rounding: float = 0.0) -> Tensor:
    """Mean absolute difference of neighbours along rows plus that along columns, the TV of (16), a scalar.

    Args:
        x: Images `(B, C, H, W)`, at least two pixels each way.
        rounding: Differences below this size count by their square, so that there is a second derivative.
    """
    across, down = x.diff(dim=-1), x.diff(dim=-2)
    if rounding:
        across, down = ((d.square() + rounding**2).sqrt() - rounding for d in (across, down))
    return across.abs().mean() + down.abs().mean()


def opponent_variation(x: Tensor, floor: float = 1e-8) -> Tensor:
    """Length of the local gradient, averaged over the channels and, for colour images, their pairwise differences.

    Differences of channels (red − green, red − blue, green − blue) make an edge of one colour cost more than one of
    brightness. Each pixel counts sqrt(∂_x² + ∂_y²), isotropically; the pixels beyond the border count as zero, so that
    the overall brightness is held back too. This is the variation in the `modern` recipe of the breaching framework.

    Args:
        x: Images `(B, C, H, W)`.
        floor: Added under the square root, which has no derivative at zero.
    """
    if x.shape[1] == 3:
        x = torch.cat([x, x - x.roll(-1, 1)], 1)
    padded = F.pad(x, (0, 1, 0, 1))
    across, down = padded[..., :-1, 1:] - x, padded[..., 1:, :-1] - x
    return (across.square() + down.square() + floor).sqrt().mean()
