"""Scenes without a hero: sea, hills, forest, desert, city."""

import torch
from torch import Tensor

from leakage_audit.data.synthetic.canvas import Canvas, disc, gradient, smoothstep


def sky(c: Canvas, colours: list[Tensor], horizon: Tensor | float, clouds: float, cloud: Tensor) -> None:
    """Colours from the horizon up, with soft clouds covering about the share `clouds`."""
    height = ((c.y - horizon) / (1.1 - horizon)).clamp(0, 1)
    c.paint(gradient(height, colours))
    veil = c.noise(2, 5, 4) + 0.5 * c.noise(3, 3, 3)
    amount = smoothstep(0.6 - 1.6 * clouds, 2.4 - 1.6 * clouds, veil) * smoothstep(0.0, 0.25, height)
    c.paint(cloud, 0.85 * amount)


def sun(c: Canvas, x: Tensor, y: Tensor, radius: Tensor | float, colour: Tensor, glow: float = 0.5) -> None:
    """A bright disc with a wide halo."""
    distance = disc(c.x - x, c.y - y, radius)
    away = distance.clamp(min=0)
    c.shine(colour, glow * torch.exp(-away / 0.5) + 0.5 * torch.exp(-away / 0.12))
    c.paint(0.35 * colour + 0.65, c.cover(distance, 0.03))


def sea(c: Canvas) -> None:
    """The sun low over the water, its light broken by waves."""
    low, middle, high, deep, light = c.palette(
        "ffb36b f0708a 3b3a78 14204a ffd28a",
        "ffd9a0 f59a6c 4f6fa8 173a5e ffe3b0",
        "fbc7b0 c583b4 4a4a9c 1b2458 ffc9a8",
        "ffe9c4 9fc7d8 3f7fb8 0e4a6a fff0c8",
    )
    horizon, sun_x, sun_y = c.uniform(-0.3, 0.1), c.uniform(-0.6, 0.6), c.uniform(0.08, 0.5)
    sky(c, [low, middle, high], horizon, 0.35, 0.6 * low + 0.4 * middle)
    sun(c, sun_x, horizon + sun_y, c.uniform(0.09, 0.17), light)
    depth = (horizon - c.y).clamp(min=0.01)
    ripple, phase = torch.zeros(1), c.uniform(0, 6.3, 8)
    for k in range(8):  # plane waves in perspective: coordinates on the water are x / depth and 1 / depth
        turn = 1.6 * ((3 * k) % 8 / 7 - 0.5)
        ripple = ripple + torch.sin(1.3**k * (turn * c.x + 3.0) / (depth + 0.15) + phase[:, k, None, None, None])
    ripple = (ripple + 1.5 * c.noise(3, 14, 3)) / 3
    water = gradient(
        (depth / 1.1 + 0.12 * ripple).clamp(0, 1), [0.5 * low + 0.5 * middle, 0.4 * middle + 0.6 * deep, deep]
    )
    column = torch.exp(-((c.x - sun_x) / (0.1 + 0.35 * depth)).square()) * torch.exp(-0.8 * depth)
    water = torch.lerp(water, light, (column * (0.55 + 0.7 * ripple)).clamp(0, 1))
    c.paint(water, c.cover(c.y - horizon))


def hills(c: Canvas) -> None:
    """Green ridges fading into the blue of the distance."""
    low, high, far, near, light = c.palette(
        "e8f1f5 4a90d0 9db8cc 3f7d2c fff3c0",
        "fdebc8 6fa8dc b8b9c4 5f8a2a ffe6a0",
        "f9d9c0 7f8fc8 b39db8 4a6b34 ffd0a0",
        "eef6e8 58a8c8 a8c8b8 2f6f3f fffbe0",
    )
    sky(c, [low, 0.5 * low + 0.5 * high, high], -0.1, 0.45, torch.full((1, 3, 1, 1), 0.98))
    sun(c, c.uniform(-0.8, 0.8), c.uniform(0.5, 0.9), 0.1, light, 0.35)
    grass = c.noise(6, 12, 4, 0.6)
    for k in range(5):
        share = k / 4
        crest = c.uniform(0.24, 0.36) - 0.28 * k + (0.06 + 0.06 * share) * c.noise(2, 0, 3, 0.4)
        below = (crest - c.y).clamp(min=0)
        slope = torch.diff(crest, dim=3, prepend=crest[..., :1]) / c.pixel
        colour = torch.lerp(far, near, share**0.7)
        shading = 1.12 - 0.6 * below + (0.4 * slope).clamp(-0.25, 0.25) + 0.05 * (share + 0.2) * grass
        c.paint((colour * shading).clamp(0, 1), c.cover(c.y - crest))
        c.paint(low, 0.2 * (1 - share) * smoothstep(0.0, 0.35, below) * c.cover(c.y - crest))


def forest(c: Canvas) -> None:
    """Conifers in the mist, row behind row, and light falling in."""
    mist, upper, far, near, light = c.palette(
        "f3ead2 b8d0d8 9fb8b4 16301f fff0c0",
        "f6d9b0 d0b8a8 b0a08c 2a2a18 ffdf9a",
        "dfeef0 8fb4c8 88aab4 0f2c34 f0fcff",
        "eaf2d0 a8c890 90b078 1c3a14 fcffc8",
    )
    c.paint(gradient((c.y + 0.6) / 1.6, [mist, upper]))
    sun_x = c.uniform(-0.7, 0.7)
    sun(c, sun_x, c.uniform(0.45, 0.8), 0.1, light, 0.5)
    c.shade(1 + 0.03 * c.noise(3, 3, 3))
    for k in range(4):
        share = (k + 1) / 4
        pitch, foot = 0.13 + 0.15 * share, -0.15 - 0.22 * k + 0.05 * c.noise(2, 0, 2)
        colour = torch.lerp(far, near, share)
        ground = c.cover(c.y - foot, 0.02)
        trees = torch.zeros(1)
        for shift in (0.0, 0.5):  # two interleaved rows, so that neighbours overlap
            cell = (c.x + 2) / pitch + shift
            column = cell.floor().long().expand(c.count, 1, 1, -1)
            offset, tall = (c.uniform(lo, hi, 1, 1, 40).gather(3, column) for lo, hi in ((-0.15, 0.15), (0.45, 0.95)))
            tall = tall * (0.7 + 0.6 * share)
            t = (c.y - foot) / tall  # 0 at the foot, 1 at the top
            branch = (7 * t) - (7 * t).floor()
            half = pitch * 0.62 * (1 - t).clamp(min=0) * (1.05 - 0.45 * branch)
            across = (cell - cell.floor() - 0.5 + offset).abs() * pitch
            trees = torch.maximum(trees, c.cover(across - half, 0.01) * ((t > -0.1) & (t < 1)))
        texture = 1 + 0.1 * share * c.noise(8, 8, 3, 0.7)
        c.paint((colour * texture).clamp(0, 1), torch.maximum(trees, ground))
        c.paint(mist, (0.62 - 0.5 * share) * (1 - smoothstep(-0.15, 0.4, c.y - foot)))
    rays = smoothstep(0.2, 1.6, torch.sin(9 * torch.atan2(c.x - sun_x, 1.4 - c.y) + c.uniform(0, 6.3)) + 0.6)
    c.shine(light, 0.22 * rays * smoothstep(-1.0, 0.6, c.y))


def desert(c: Canvas) -> None:
    """Dunes, one side in the sun and one in the shade, along a sharp crest."""
    low, high, lit, dark, light = c.palette(
        "fbe3c0 4f8fc0 f0b060 8a4a2c fff0c8",
        "ffd0a0 7a6aa8 e89050 6a2f38 ffd8a0",
        "f8eed8 3f9ad0 f4cc88 a06a3c fffbe8",
        "f8c8b8 5a6ab0 e0946c 5a3048 ffe0c8",
    )
    sky(c, [low, 0.6 * low + 0.4 * high, high], 0.0, 0.15, torch.full((1, 3, 1, 1), 0.97))
    sun(c, c.uniform(-0.8, -0.2), c.uniform(0.45, 0.8), 0.1, light)
    ripple = torch.sin(26 * (c.y + 0.18 * c.noise(2, 2, 2)) + 3 * c.x)
    for k in range(4):
        share = k / 3
        top, swing = 0.22 - 0.33 * k, 0.1 + 0.08 * share
        phase, pace = c.uniform(0, 6.3), c.uniform(1.2, 2.6)
        crest = top + swing * torch.sin(pace * c.x + phase) + 0.03 * c.noise(2, 0, 2)
        below = (crest - c.y).clamp(min=0)
        # From each summit a winding edge runs down towards the viewer; the sun stands left of it.
        summit = (3.1416 / 2 - phase) / pace
        width = 6.2832 / pace
        across = torch.remainder(c.x - summit + width / 2, width) - width / 2
        edge = 0.5 * below + 0.12 * torch.sin(4 * below + phase) - 0.02
        lee = across - edge
        shadow = smoothstep(-0.03, 0.03, lee) * (1 - smoothstep(0.0, 0.45 * width, lee)) * torch.exp(-0.7 * below)
        sand = torch.lerp(lit, dark, 0.85 * shadow) * (1.05 - 0.15 * below)
        sand = sand * (1 + 0.035 * share * ripple + 0.02 * c.noise(8, 8, 3, 0.7))
        c.paint(torch.lerp(sand, low, 0.45 * (1 - share)), c.cover(c.y - crest))


def city(c: Canvas) -> None:
    """A skyline at dusk over the water that mirrors it."""
    low, middle, high, far, near, lamp = c.palette(
        "ffb880 c86a8c 2a2a60 8a6a98 1c1c3a ffdc88",
        "ffd8a8 88a0c8 24487c 7c90b0 182840 ffe8b0",
        "f8a890 8a5aa8 201c50 70508c 16122c ffd070",
        "d8f0f0 70a8c8 1c4468 6c98b0 10283c fff0c0",
    )
    water = c.uniform(-0.6, -0.4)
    above = water + (c.y - water).abs()  # below the waterline: the mirror image
    c.paint(gradient(((above - water) / 1.4).clamp(0, 1), [low, middle, high]))
    c.paint(0.5 * low + 0.5, 0.5 * smoothstep(0.6, 2.2, c.noise(2, 6, 4)) * (c.y > water))
    sway = 0.02 * c.noise(3, 16, 3) * smoothstep(0.0, 0.3, water - c.y)
    x, y = c.x + sway, above + 0.5 * sway
    for k in range(3):
        share = k / 2
        pitch = 0.2 + 0.05 * k
        cell = (x + 2.2) / pitch + 0.37 * k
        column = cell.floor().long().clamp(0, 39).expand(c.count, 1, c.side, -1)
        tall, inset, lit = (
            c.uniform(lo, hi, 1, 1, 40).expand(-1, -1, c.side, -1).gather(3, column)
            for lo, hi in ((0.15, 1.0), (0.0, 0.12), (0.25, 0.8))
        )
        tall = (tall**1.7 * 1.05 + 0.15) * (1.1 - 0.4 * share)
        side = cell - cell.floor()
        inside = c.cover(torch.maximum((side - 0.5).abs() - 0.5 + inset, (y - water - tall)) * pitch)
        wall = torch.lerp(far, near, 0.25 + 0.75 * share) * (1.15 - 0.35 * side)
        wall = wall + (low - wall) * (0.35 - 0.15 * share) * (1 - smoothstep(0.0, 0.8, y - water))
        c.paint(wall, inside)
        row, door = (y - water) / 0.11, side * 3
        key = (row.floor() * 7.13 + door.floor() * 3.71 + column * 1.93 + 17 * k).sin() * 43758.5453
        on = (key - key.floor() < lit * 0.75) * (row > 0.5) * (y - water < tall - 0.05)
        glass = smoothstep(0.12, 0.3, row - row.floor()) * smoothstep(0.12, 0.3, door - door.floor())
        c.paint(lamp, 0.75 * (0.4 + 0.6 * share) * on * glass * inside * (side > inset) * (side < 1 - inset))
    surface = smoothstep(0.0, 0.02, water - c.y)
    c.paint(torch.lerp(near, high, 0.3), surface * (0.28 + 0.1 * c.noise(2, 16, 3)).clamp(0, 0.6))
