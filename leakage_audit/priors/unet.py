"""A small convolutional network that takes white noise of a known strength off images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MULTIPLE = 4  # not a setting: sides are halved once by folding pixels into channels, once by a stride


class UNet(nn.Module):
    """Two scales with a skip between them; pixels folded 2 × 2 into channels, as in FFDNet (Zhang et al. 2018).

    The output is a weighted sum of the noisy image and of what the layers say, with the weights of Karras et al.
    2022 (Table 1), so that the layers see and return numbers of unit size at any strength of the noise.

    Args:
        channels: Of an image.
        width: Channels of the finer scale; the coarser one has twice as many.
        spread: Standard deviation of an image's values around grey; a photograph's.
        waves: Frequencies in which the strength of the noise is told.
    """

    def __init__(self, channels: int = 3, width: int = 96, spread: float = 0.25, waves: int = 16) -> None:
        super().__init__()
        self.channels, self.width, self.spread, self.waves = channels, width, spread, waves
        self.strength = nn.Sequential(nn.Linear(2 * waves, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.first = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.down = nn.ModuleList([_Block(width) for _ in range(2)])
        self.shrink = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.middle = nn.ModuleList([_Block(2 * width) for _ in range(3)])
        self.grow = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = nn.ModuleList([_Block(width) for _ in range(2)])
        self.last = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # made with a bias

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The expected image.

        Args:
            noisy: Images in [0, 1] plus noise, `(B, C, H, W)`.
            sigma: Standard deviation of each image's noise, `(B,)`.
        """
        height, width = noisy.shape[2:]
        spare = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        centred = F.pad(noisy - 0.5, spare, mode="replicate")
        scale = sigma[:, None, None, None]
        total = (scale**2 + self.spread**2).sqrt()
        said = self._layers(centred / total, self._told(sigma)).to(noisy.dtype)
        cleaned = centred * (self.spread / total) ** 2 + said * scale * self.spread / total
        return 0.5 + cleaned[:, :, :height, :width]

    def _layers(self, x: Tensor, told: Tensor) -> Tensor:
        fine = self.first(F.pixel_unshuffle(x, 2))
        for block in self.down:
            fine = block(fine, told)
        coarse = self.shrink(fine)
        for block in self.middle:
            coarse = block(coarse, told)
        fine = fine + self.grow(coarse)
        for block in self.up:
            fine = block(fine, told)
        return F.pixel_shuffle(self.last(fine), 2)

    def _told(self, sigma: Tensor) -> Tensor:
        low, high = math.log(0.5), math.log(20.0)
        waves = torch.linspace(low, high, self.waves, dtype=sigma.dtype, device=sigma.device).exp()
        angles = waves * sigma.log()[:, None] / 4
        return self.strength(torch.cat([angles.sin(), angles.cos()], 1))


class _Block(nn.Module):
    """Two convolutions around a skip; the strength of the noise scales and shifts what lies between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(64, 2 * width)
        nn.init.zeros_(self.two.weight)
        nn.init.zeros_(self.two.bias)  # type: ignore[arg-type]  # made with a bias

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        return x + self.two(F.silu(self.one(F.silu(x)) * (1 + scale) + shift))
