"""The painter's tools: noise of unit variance at any resolution, distances, coverage, palettes."""

import numpy as np
import pytest
import torch

from leakage_audit.data.synthetic.canvas import Canvas, box, disc, ellipse, gradient, smoothstep


def canvas(count=64, size=32):
    return Canvas([np.random.default_rng([3, i]) for i in range(count)], size)


@pytest.mark.parametrize(("across", "up"), [(3, 3), (2, 8), (4, 0)])
def test_noise_has_unit_variance(across, up):
    noise = canvas(count=400).noise(across, up)
    assert noise.mean().item() == pytest.approx(0, abs=0.1)
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_noise_is_the_same_field_at_every_resolution():
    coarse, fine = (canvas(size=size).noise(3, 3, octaves=2) for size in (16, 48))
    assert torch.allclose(torch.nn.functional.avg_pool2d(fine, 3), coarse, atol=0.15)


def test_octaves_too_fine_for_the_grid_are_left_out_but_still_drawn():
    first, second = canvas(size=8), canvas(size=64)
    first.noise(4, 4, octaves=5)
    second.noise(4, 4, octaves=5)
    assert torch.equal(first.uniform(0, 1), second.uniform(0, 1))


def test_distances_are_negative_inside_and_measure_length_outside():
    x, y = torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])
    assert disc(x, y, 1.0).tolist() == [-1, 1, 2]
    assert box(x, y, 1.0, 0.5).tolist() == [-0.5, 1, 2.5]
    assert box(torch.tensor(1.0), torch.tensor(1.0), 1.0, 1.0, corner=0.5).item() == pytest.approx(0.5 * (2**0.5 - 1))
    edge = ellipse(torch.tensor([1.5, 0.0]), torch.tensor([0.0, 0.5]), 1.5, 0.5)
    assert torch.allclose(edge, torch.zeros(2), atol=1e-5)


def test_coverage_adds_up_to_the_shapes_area():
    c = canvas(count=1, size=32)
    area = c.cover(disc(c.x - 0.1, c.y + 0.07, 0.5)).sum().item() * c.pixel**2
    assert area == pytest.approx(torch.pi * 0.25, rel=0.003)


def test_painting_shining_and_shading():
    c = canvas(count=1, size=8)
    c.paint(0.5)
    c.shine(1.0, torch.tensor(0.5))
    c.shade(torch.tensor(2 / 3))
    assert torch.allclose(c.finish(), torch.full((1, 3, 8, 8), 0.5))
    assert c.finish().shape == (1, 3, 8, 8)


def test_up_is_up():
    c = canvas(count=1, size=8)
    c.paint(1.0, c.cover(-c.y))  # the upper half
    assert c.finish()[0, 0, 0, 0] == 1
    assert c.finish()[0, 0, -1, 0] == 0


def test_palette_colours_lie_between_the_choices():
    low, high = canvas().palette("000000 ff0000", "404040 ff0000")
    assert low.shape == (64, 3, 1, 1)
    assert low.min() >= 0
    assert low.max() <= 64 / 255 + 1e-6
    assert low.unique().numel() > 10
    assert torch.allclose(high.squeeze(), torch.tensor([1.0, 0.0, 0.0]).expand(64, 3))


def test_gradient_passes_through_its_colours():
    stops = [torch.full((1, 3, 1, 1), v) for v in (0.2, 0.9, 0.4)]
    found = gradient(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3), stops)
    assert torch.allclose(found[0, 0, 0], torch.tensor([0.2, 0.9, 0.4]))
    assert smoothstep(0.0, 2.0, torch.tensor([-1.0, 0.0, 1.0, 2.0, 5.0])).tolist() == [0, 0, 0.5, 1, 1]
