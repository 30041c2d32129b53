"""Scenes with one thing in the middle: flower, balloon, planet, fish, house."""

import torch

from leakage_audit.data.synthetic.canvas import Canvas, box, disc, ellipse, gradient, smoothstep
from leakage_audit.data.synthetic.landscapes import sky


def flower(c: Canvas) -> None:
    """A blossom before a blurred meadow."""
    inner, outer, vein, heart, leaf, dark = c.palette(
        "ffe8f0 f06a9a c02a68 ffd040 5a9a3c 1c3a20",
        "fff8d8 ffc82e e88a10 7a4420 6aa040 203c1c",
        "f0e4ff 8a6ae0 5030a8 ffe060 4f9050 16302c",
        "ffffff f0e8f4 b8a8c8 f8c020 60a048 1a3a2a",
        "ffd8b8 f0502c a81c20 402020 589040 24341a",
    )
    c.paint(gradient((c.y + 1) / 2, [dark, 0.6 * leaf + 0.4 * dark, 0.7 * leaf + 0.3 * heart]))
    c.paint(leaf, (0.35 + 0.25 * c.noise(3, 3, 2)).clamp(0, 0.8))
    spots = c.uniform(-1.1, 1.1, 7, 2)
    for k in range(7):  # light out of focus
        spot = disc(c.x - spots[:, k, 0, None, None, None], c.y - spots[:, k, 1, None, None, None], 0.1 + 0.03 * k)
        c.shine(0.5 * heart + 0.5 * leaf, 0.2 * c.cover(spot, 0.06))
    x0, y0 = c.uniform(-0.2, 0.2), c.uniform(-0.05, 0.3)
    stem = (c.x - x0 - 0.12 * torch.sin(2 * (c.y - y0))).abs() - 0.035
    c.paint(0.75 * leaf, c.cover(stem, 0.02) * (c.y < y0))
    blade = ellipse(0.8 * (c.x - x0 - 0.3) + 0.6 * (c.y + 0.65), 0.8 * (c.y + 0.65) - 0.6 * (c.x - x0 - 0.3), 0.34, 0.1)
    c.paint(leaf * (0.9 - 1.5 * blade), c.cover(blade, 0.02))
    x, y = c.x - x0, (c.y - y0) * c.uniform(1.0, 1.25)
    r, angle = (x * x + y * y).sqrt(), torch.atan2(y, x)
    count, turn, size = c.uniform(5, 9).floor(), c.uniform(0, 6.3), c.uniform(0.5, 0.68)
    for layer in range(2):  # the back row of petals shows between the front row
        swing = 0.5 * count * (angle + turn) + 1.5708 * layer
        lobe = torch.cos(swing).abs()
        reach = size * (1 - 0.12 * layer) * (0.42 + 0.58 * lobe**0.6)
        depth = (r / reach).clamp(0, 1)
        petal = gradient(depth, [vein, outer, 0.6 * outer + 0.4 * inner, inner])
        petal = petal * (0.55 + 0.2 * layer + 0.3 * lobe) * (1 + 0.06 * torch.sin(22 * swing) * depth)
        petal = petal * (1 + 0.12 * (y - x))
        c.shade(1 - 0.45 * c.cover(r - reach - 0.02, 0.16))
        c.paint(petal.clamp(0, 1), c.cover(r - reach, 0.01))
    core = 0.26 * size
    c.shade(1 - 0.5 * c.cover(r - core, 0.12))
    seeds = torch.cos(60 * r) * torch.cos(9 * angle + 30 * r)
    c.paint((heart * (1.12 - 0.5 * r / core + 0.16 * seeds + 0.3 * (y - x))).clamp(0, 1), c.cover(r - core, 0.02))


def balloon(c: Canvas) -> None:
    """A striped hot-air balloon over the country in the morning."""
    low, high, land, first, second = c.palette(
        "ffe8c8 5aa0d8 6a9a60 e8402c ffd84a",
        "ffd8c0 7a80c8 7a8a68 2a70c8 f8f4e8",
        "e8f4f8 3a90d8 5a9c50 f08020 7a2878",
        "fce8d8 80b8d8 88a068 18988c fff0c0",
        "f8dce8 6890d0 6c9068 c82868 ffc0b0",
    )
    sky(c, [low, 0.5 * low + 0.5 * high, high], -0.6, 0.4, torch.full((1, 3, 1, 1), 0.99))
    for k in range(3):
        crest = -0.5 - 0.17 * k + 0.07 * c.noise(2, 0, 3)
        ground = torch.lerp(torch.lerp(land, high, 0.5), land * 0.85, k / 2) * (1 + 0.05 * c.noise(6, 10, 3, 0.6))
        c.paint(ground.clamp(0, 1), c.cover(c.y - crest, 0.01))
    size = c.uniform(0.42, 0.6)
    x, y = (c.x - c.uniform(-0.3, 0.3)) / size, (c.y - c.uniform(0.1, 0.35)) / size
    fall = (-y).clamp(min=0)
    half = torch.where(y > 0, (1 - y.square()).clamp(min=1e-4).sqrt(), 1 - 0.6 * fall**1.7)
    envelope = torch.maximum(x.abs() - half, torch.maximum(y - 1, -y - 1.22)) * size * 0.8
    across = (x / half).clamp(-1, 1)
    gore = torch.asin(0.999 * across) * c.uniform(3, 6).floor() * 0.9 + c.uniform(0, 6.3)
    stripe = smoothstep(-0.25, 0.25, torch.sin(2 * gore))
    band = c.cover(((y + 0.15).abs() - 0.14) * size) * (c.uniform(0, 1) > 0.5)
    cloth = torch.lerp(first, second, (stripe + band - 2 * stripe * band).clamp(0, 1))
    normal = (1 - across.square()).clamp(min=0).sqrt()
    light = 0.5 + 0.42 * normal - 0.3 * across + 0.22 * y + 0.06 * torch.sin(4 * gore)
    c.paint((cloth * light).clamp(0, 1), c.cover(envelope, 0.01))
    c.shine(1.0, 0.5 * torch.exp(-((x + 0.4).square() + (y - 0.4).square()) / 0.05) * c.cover(envelope))
    rope = ((x.abs() - 0.13 - 0.22 * (y + 1.55)).abs() - 0.012) * size
    c.paint(0.25, 0.8 * c.cover(rope) * (y < -1.2) * (y > -1.5))
    basket = box(x, y + 1.6, 0.17, 0.13, 0.04) * size
    weave = 1 + 0.15 * torch.sin(60 * y) * torch.sin(60 * x)
    c.paint(torch.tensor([0.5, 0.32, 0.17]).view(1, 3, 1, 1) * weave * (1 - 1.2 * x), c.cover(basket))


def planet(c: Canvas) -> None:
    """A banded planet, its ring and a moon before a nebula."""
    dark, nebula, glow, pale, warm, deep = c.palette(
        "070a1e 3a2a6a c05a90 f8e8c8 d89a60 8a4a38",
        "050c1c 1c4a70 48a0a8 e8f4f0 70b0c8 2a5080",
        "0c0816 50284a e07850 fff0d8 e8b878 b06848",
        "060c14 204838 90a860 f0f0d0 90b888 3a6858",
    )
    cloud = c.noise(2, 2, 5, 0.55)
    c.paint(dark)
    c.paint(nebula, smoothstep(-1.2, 2.2, cloud) * 0.9)
    c.shine(glow, 0.45 * smoothstep(0.2, 2.6, cloud + 0.4 * c.noise(3, 3, 4)))
    place, bright = c.uniform(-1, 1, 40, 2), c.uniform(0.4, 1, 40, 1)
    # A star is a product of two Gaussians, so all of them together are one product of matrices.
    beside = bright * torch.exp(-(c.x[0, 0] - place[..., :1]).square() / 0.0004)
    above = bright * torch.exp(-(c.y[0, 0, :, 0] - place[..., 1:]).square() / 0.0004)
    c.shine(1.0, torch.einsum("nky,nkx->nyx", above, beside)[:, None])
    radius, x0, y0 = c.uniform(0.4, 0.56), c.uniform(-0.15, 0.15), c.uniform(-0.15, 0.15)
    x, y = (c.x - x0) / radius, (c.y - y0) / radius
    tilt, sun_at = c.uniform(-0.6, 0.6), c.uniform(-2.6, 2.6)
    u, v = torch.cos(tilt) * x + torch.sin(tilt) * y, torch.cos(tilt) * y - torch.sin(tilt) * x
    z = (1 - x * x - y * y).clamp(min=0).sqrt()
    latitude = v + 0.25 * z + 0.03 * c.noise(5, 5, 3)
    bands = (
        0.5 + 0.28 * torch.sin(7 * latitude + c.uniform(0, 6.3)) + 0.2 * torch.sin(17 * latitude + c.uniform(0, 6.3))
    )
    surface = gradient(bands.clamp(0, 1), [deep, warm, pale])
    # Lambert's law, the sun left or right, above and in front.
    light = 0.62 * torch.sign(sun_at) * x + 0.35 * y + 0.7 * z
    edge = disc(c.x - x0, c.y - y0, radius)
    c.shine(0.5 * glow + 0.5 * pale, 0.5 * torch.exp(-edge.clamp(min=0) / 0.07) * (0.2 + light).clamp(0, 1))
    ring_r = (u.square() + (v / 0.28).square()).sqrt()
    ring = smoothstep(1.3, 1.36, ring_r) * (1 - smoothstep(1.95, 2.05, ring_r))
    ring = ring * (0.62 + 0.3 * torch.sin(26 * ring_r) * torch.sin(11 * ring_r)) * (c.uniform(0, 1) > 0.35)
    stone = 0.6 * pale + 0.4 * warm
    c.paint(stone, 0.85 * ring * (v > 0))
    c.paint((surface * light.clamp(0.03, 1.1) * 1.05).clamp(0, 1), c.cover(edge))
    c.paint(stone, 0.85 * ring * (v <= 0))
    moon_x, moon_y, moon = c.uniform(0.55, 0.8) * -torch.sign(sun_at), c.uniform(-0.8, 0.8), c.uniform(0.06, 0.11)
    p, q = (c.x - moon_x) / moon, (c.y - moon_y) / moon
    height = (1 - p * p - q * q).clamp(min=0).sqrt()
    lit = (0.62 * torch.sign(sun_at) * p + 0.35 * q + 0.7 * height).clamp(0.04, 1)
    c.paint(0.85 * pale * lit, c.cover(disc(c.x - moon_x, c.y - moon_y, moon)))


def fish(c: Canvas) -> None:
    """A striped fish in sunlit water."""
    top, deep, body, stripe, belly, sand = c.palette(
        "7fe0e8 0a4a80 ff8a20 fff8f0 ffc880 d8c898",
        "90e8d0 0c5a70 ffd030 2a3050 fff4b0 e0d0a0",
        "88d0f8 123a8a e84a6a fff0e0 ffb8a8 c8c0a8",
        "a8f0e0 0a6878 3a60d8 ffe050 a0d0ff e0d8b0",
    )
    c.paint(gradient((c.y + 1) / 2, [deep, 0.5 * deep + 0.5 * top, top]))
    c.shade(1 + 0.04 * c.noise(3, 3, 3))
    ray = torch.sin(8 * (c.x + 0.45 * c.y) / (2.2 - c.y) * 2 + c.uniform(0, 6.3)) + 0.5 * torch.sin(
        13 * (c.x + 0.4 * c.y)
    )
    c.shine(top, 0.35 * smoothstep(0.1, 1.6, ray) * smoothstep(-0.9, 1.0, c.y))
    floor = -0.72 + 0.06 * c.noise(2, 0, 2)
    bed = sand * (0.72 + 0.1 * torch.sin(30 * (c.y - floor) + 4 * c.x) + 0.06 * c.noise(8, 12, 3, 0.7))
    c.paint(torch.lerp(bed, deep, 0.3).clamp(0, 1), c.cover(c.y - floor, 0.03))
    roots, height = c.uniform(-0.95, 0.95, 6), c.uniform(0.4, 1.1, 6)
    for k in range(6):
        up = (c.y + 0.95) / height[:, k, None, None, None]
        weed = (c.x - roots[:, k, None, None, None] - 0.06 * torch.sin(5 * c.y + 2 * k)).abs() - 0.05 * (1 - up).clamp(
            0, 1
        )
        green = torch.tensor([0.1 + 0.04 * k, 0.45, 0.28]).view(1, 3, 1, 1)
        c.paint(torch.lerp(green, deep, 0.35) + 0.15 * up.clamp(0, 1), 0.9 * c.cover(weed, 0.01) * (up < 1))
    side, size = torch.sign(c.uniform(-1, 1)), c.uniform(0.48, 0.62)
    x, y = side * (c.x - c.uniform(-0.12, 0.12)) / size, (c.y - c.uniform(-0.15, 0.25)) / size
    lean = c.uniform(-0.2, 0.2)
    x, y = torch.cos(lean) * x - torch.sin(lean) * y, torch.sin(lean) * x + torch.cos(lean) * y
    plump = c.uniform(0.46, 0.62)
    spread = (-x - 0.72).clamp(min=0)
    tail = torch.maximum(
        y.abs() - 0.1 - 1.05 * spread, torch.maximum(-x - 1.3 + 0.5 * (0.3 - y.abs()).clamp(min=0), x + 0.7)
    )
    fin = torch.maximum(ellipse(x + 0.12, y - 0.42, 0.5, 0.36), -y)
    lower = torch.maximum(ellipse(x + 0.15, y + 0.42, 0.3, 0.3), y)
    rays = 1 + 0.12 * torch.sin(40 * (y + 0.3 * x))
    for part in (tail, fin, lower):
        c.paint((0.85 * body * rays).clamp(0, 1), 0.95 * c.cover(part * size * 0.8, 0.01))
    shape = ellipse(x, y, 0.9, plump)
    depth = (-shape / plump).clamp(0, 1)
    bend = x + 0.35 * (y / plump).square()
    marks = smoothstep(0.55, 0.8, torch.cos(c.uniform(6, 8.5) * (bend - 0.1))) * smoothstep(0.75, 0.55, x)
    skin = torch.lerp(gradient((0.5 + 0.6 * y / plump).clamp(0, 1), [belly, body, body * 0.85]), stripe, 0.92 * marks)
    scales = 1 + 0.05 * torch.sin(34 * x + 17 * y) * torch.sin(34 * x - 17 * y)
    c.paint((skin * scales * (0.62 + 0.45 * depth**0.5 + 0.18 * y)).clamp(0, 1), c.cover(shape * size))
    c.paint(0.8 * body, c.cover(torch.maximum(ellipse(x + 0.02, y + 0.12, 0.2, 0.12), x - 0.08) * size, 0.01))
    eye_x, eye_y = x - 0.56, y - 0.13
    for colour, radius in ((1.0, 0.125), (0.06, 0.078)):
        c.paint(colour, c.cover(disc(eye_x, eye_y, radius) * size))
    c.paint(1.0, c.cover(disc(eye_x + 0.03, eye_y - 0.035, 0.03) * size))
    for k in range(4):
        bubble = disc(c.x - side * (0.72 + 0.06 * torch.sin(c.uniform(0, 6.3))), c.y - 0.1 - 0.22 * k, 0.03 + 0.012 * k)
        c.shine(1.0, 0.5 * c.cover(bubble.abs() - 0.012, 0.01) + 0.12 * c.cover(bubble))


def house(c: Canvas) -> None:
    """A cottage in a meadow, a tree beside it."""
    low, high, wall, roof, door, grass, crown = c.palette(
        "f0f6fa 4a98e0 f8ecd8 b84830 3a6a8a 6aa84a 3a7a34",
        "ffe0b8 7a9ad8 e8d0b0 6a4a58 a03828 88a048 b87828",
        "e8f4f8 60b0d8 d86a50 505868 f8f0e0 78b050 4a8a40",
        "fdeadf 88a8e0 f4f4ee 3a6080 c8483c 80b060 608c38",
    )
    sky(c, [low, 0.4 * low + 0.6 * high, high], -0.3, 0.5, torch.full((1, 3, 1, 1), 0.99))
    for k in range(2):
        crest = -0.12 - 0.3 * k + 0.05 * c.noise(2, 0, 3)
        tone = torch.lerp(0.5 * grass + 0.5 * high, grass, 0.3 + 0.7 * k) * (1.0 - 0.25 * (crest - c.y).clamp(0, 1))
        c.paint((tone * (1 + 0.06 * c.noise(8, 16, 4, 0.7))).clamp(0, 1), c.cover(c.y - crest, 0.01))
    side = torch.sign(c.uniform(-1, 1))
    x0, foot, w, h = side * c.uniform(0.05, 0.25), c.uniform(-0.58, -0.45), c.uniform(0.42, 0.52), c.uniform(0.48, 0.6)
    tree_x, tree_y, tree = -side * c.uniform(0.55, 0.72), foot + c.uniform(0.55, 0.75), c.uniform(0.26, 0.36)
    bark = torch.tensor([0.36, 0.25, 0.17]).view(1, 3, 1, 1)
    c.paint(
        bark * (0.9 + side * 2 * (c.x - tree_x)),
        c.cover((c.x - tree_x).abs() - 0.045) * (c.y > foot - 0.03) * (c.y < tree_y),
    )
    leaves = c.noise(6, 6, 3, 0.6)
    round_ = disc(c.x - tree_x, (c.y - tree_y) * 0.9, tree) + 0.035 * leaves
    light = 0.85 + 0.9 * (c.y - tree_y) - 0.35 * (c.x - tree_x) + 0.14 * leaves
    c.paint((crown * light).clamp(0, 1), c.cover(round_, 0.01))
    x, y = c.x - x0, c.y - foot
    path = (c.x - x0 - 0.25 * side * y.clamp(max=0) ** 2).abs() - 0.1 + 0.3 * y
    c.paint(torch.lerp(wall, bark, 0.35), 0.85 * c.cover(path, 0.02) * (y < 0.02))
    c.shade(1 - 0.35 * c.cover(ellipse(x - 0.1, y + 0.02, 0.62, 0.07), 0.06))
    chimney = box(x - 0.55 * w, y - h - 0.3, 0.06, 0.2)
    c.paint(0.75 * roof + 0.1, c.cover(chimney))
    facade = box(x, y - h / 2, w, h / 2)
    boards = 1 + 0.03 * torch.sin(55 * y)
    c.paint((wall * boards * (0.95 - 0.18 * x)).clamp(0, 1), c.cover(facade))
    peak = h + 0.42
    gable = (x.abs() / (w + 0.1) - (peak - y) / (peak - h + 0.06)) * 0.35
    eaves = torch.maximum(gable, h - 0.05 - y)
    c.shade(1 - 0.3 * c.cover(torch.maximum(y - h, h - 0.14 - y)) * c.cover(facade))
    tiles = 1 + 0.09 * torch.sin(46 * y) + 0.05 * torch.sin(38 * x)
    c.paint((roof * tiles * (1.05 - 0.35 * x)).clamp(0, 1), c.cover(eaves))
    for at in (-0.55, 0.55):
        pane = box(x - at * w, y - 0.56 * h, 0.1, 0.11)
        c.paint(0.97, c.cover(pane - 0.025))
        glass = torch.lerp(0.45 * high, torch.tensor([1.0, 0.88, 0.55]).view(1, 3, 1, 1), 0.5 + 2 * (y - 0.56 * h))
        c.paint(
            glass.clamp(0, 1),
            c.cover(torch.maximum(pane, 0.01 - torch.minimum((x - at * w).abs(), (y - 0.56 * h).abs()))),
        )
    entry = box(x, y - 0.29 * h, 0.095, 0.29 * h, 0.02)
    c.paint(0.95, c.cover(entry - 0.02))
    c.paint(door * (1 - 0.8 * x), c.cover(entry))
