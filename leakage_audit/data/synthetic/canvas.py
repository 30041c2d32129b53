"""Many small paintings at once: coordinates, random numbers, soft noise, palettes and shapes for `scenes`.

Every quantity is `(N, channels, S, S)` or broadcasts to it, N images at a time. Coordinates run from -1 to 1, x to the
right and y upwards, so a scene is the same picture at every size. Each image draws from a generator of its own: it
does not depend on which others are painted beside it.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLING = 2  # painted at twice the size, then averaged: no jagged edge, no aliased texture


class Canvas:
    """N square images in the making.

    Args:
        generators: One source of random numbers per image.
        size: Height and width of the finished images in pixels.
    """

    def __init__(self, generators: Sequence[np.random.Generator], size: int) -> None:
        self._generators = generators
        self.count, self.side = len(generators), OVERSAMPLING * size
        self.pixel = 2 / self.side
        centres = (torch.arange(self.side) + 0.5) * self.pixel - 1
        self.x, self.y = centres.view(1, 1, 1, -1), -centres.view(1, 1, -1, 1)
        self.image = torch.zeros(self.count, 3, self.side, self.side)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Random numbers `(N, *shape)`, by default `(N, 1, 1, 1)`: one an image."""
        shape = shape or (1, 1, 1)
        drawn = np.stack([generator.random(shape, dtype=np.float32) for generator in self._generators])
        return low + (high - low) * torch.from_numpy(drawn)

    def palette(self, *choices: str) -> list[Tensor]:
        """Colours `(N, 3, 1, 1)` from one of the choices, with a share of another mixed in.

        Args:
            *choices: Colours as hexadecimal RGB separated by blanks, equally many in each choice.
        """
        table = torch.tensor([[list(bytes.fromhex(c)) for c in choice.split()] for choice in choices]) / 255
        first, second = (self.uniform(0, len(choices), 1).long()[:, 0] for _ in range(2))
        share = self.uniform(0, 0.4)
        mixed = torch.lerp(table[first], table[second], share.view(-1, 1, 1))
        return [colour[:, :, None, None] for colour in mixed.unbind(1)]

    def noise(self, across: int, up: int, octaves: int = 4, gain: float = 0.5) -> Tensor:
        """Fractal noise `(N, 1, S, S)` of about unit variance.

        Args:
            across: Cells from left to right in the coarsest octave.
            up: Cells from bottom to top in the coarsest octave; 0 for noise that varies along x only `(N, 1, 1, S)`.
            octaves: Each has twice the cells of the one before.
            gain: Each has this share of the amplitude of the one before; 0.5 makes a 1/f spectrum.
        """
        total = torch.zeros(self.count, 1, 1, 1)
        for octave in range(octaves):
            wide, high = across << octave, up << octave
            # Drawn even where too fine to be shown, so that an image is the same at every size.
            lattice = self.uniform(-1, 1, 1, high + 3 if up else 1, wide + 3)
            if max(wide, high) <= self.side // 2:
                layer = _spline(lattice, self.side, 3)
                total = total + gain**octave * (_spline(layer, self.side, 2) if up else layer)
        variance = (0.479 if up == 0 else 0.479**2) / 3 * sum(gain ** (2 * octave) for octave in range(octaves))
        return total / variance**0.5

    def paint(self, colour: Tensor | float, alpha: Tensor | float = 1.0) -> None:
        """Lay a colour over the image, as opaque as `alpha` says."""
        self.image = self.image + alpha * (colour - self.image)

    def shine(self, colour: Tensor | float, alpha: Tensor) -> None:
        """Add light; the image approaches white and never passes it."""
        self.image = 1 - (1 - self.image) * (1 - colour * alpha.clamp(0, 1))

    def shade(self, factor: Tensor) -> None:
        """Multiply the image by a brightness."""
        self.image = self.image * factor

    def cover(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """How much of each pixel lies inside a shape.

        Args:
            distance: Signed distance to the shape's edge, negative inside.
            softness: Width of the edge beyond one pixel.
        """
        return (0.5 - distance / (self.pixel + softness)).clamp(0, 1)

    def finish(self) -> Tensor:
        """The finished images `(N, 3, size, size)` in [0, 1]."""
        return F.avg_pool2d(self.image, OVERSAMPLING).clamp(0, 1)


def _spline(lattice: Tensor, side: int, dim: int) -> Tensor:
    """Interpolate along `dim` by uniform cubic B-splines, from `cells + 3` control values to `side` samples."""
    cells = lattice.shape[dim] - 3
    position = (torch.arange(side) + 0.5) * cells / side
    start = position.floor().long().clamp(max=cells - 1)
    t = position - start
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    shape = (-1, 1) if dim == 2 else (-1,)
    taps = (lattice.index_select(dim, start + k) * (w / 6).view(shape) for k, w in enumerate(weights))
    return torch.stack(list(taps)).sum(0)


def smoothstep(low: Tensor | float, high: Tensor | float, value: Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, a smooth S between."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def gradient(position: Tensor, colours: Sequence[Tensor]) -> Tensor:
    """Colours at equal distances along 0 … 1, blended smoothly."""
    blend, step = colours[0], 1 / (len(colours) - 1)
    for k, colour in enumerate(colours[1:]):
        blend = torch.lerp(blend + torch.zeros_like(position), colour, smoothstep(k * step, (k + 1) * step, position))
    return blend


def disc(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance to a circle around the origin."""
    return (x.square() + y.square()).sqrt() - radius


def ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Signed distance (to first order) to an ellipse with half axes a and b."""
    value = ((x / a).square() + (y / b).square()).sqrt()
    slope = ((x / a**2).square() + (y / b**2).square()).sqrt() / (value + 1e-6)
    return (value - 1) / (slope + 1e-6)


def box(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float, corner: float = 0.0) -> Tensor:
    """Signed distance to a rectangle around the origin with rounded corners."""
    p, q = x.abs() - half_width + corner, y.abs() - half_height + corner
    outside = (p.clamp(min=0).square() + q.clamp(min=0).square()).sqrt()
    return outside + torch.maximum(p, q).clamp(max=0) - corner
