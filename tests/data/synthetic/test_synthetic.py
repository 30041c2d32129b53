"""The drawn pictures: reproducible, alike at every size, smooth, coloured, and ten classes that can be told apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leakage_audit.data.synthetic import SCENES, draw


@pytest.mark.parametrize("scene", SCENES)
def test_a_picture_depends_on_seed_and_index_alone(scene):
    many = draw(scene, range(70), size=32)  # more than are painted at once
    assert many.shape == (70, 3, 32, 32)
    assert many.dtype == torch.uint8
    assert torch.equal(draw(scene, [69, 2]), many[[69, 2]])
    assert not torch.equal(draw(scene, [2], seed=1), many[[2]])
    assert len(torch.unique(many, dim=0)) == 70


@pytest.mark.parametrize("scene", SCENES)
def test_a_picture_is_the_same_at_every_size(scene):
    small, large = (draw(scene, range(4), size=size).float() / 255 for size in (32, 96))
    assert (F.avg_pool2d(large, 3) - small).square().mean().sqrt() < 0.06


@pytest.mark.parametrize("scene", SCENES)
def test_pictures_are_coloured_and_smooth_like_photographs(scene):
    images = draw(scene, range(20)).double() / 255
    assert images.amin() >= 0.0
    assert images.std((1, 2, 3)).mean() > 0.1  # contrast
    assert (images.amax(1) - images.amin(1)).mean() > 0.08  # colour
    left, right = images[..., :-1].flatten(), images[..., 1:].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.7


def test_the_power_spectrum_falls_like_a_photographs():
    """Photographs have power ~ 1/f^a with a about 2 to 3; white noise has 0, a plain gradient far more."""
    images = torch.cat([draw(scene, range(20)) for scene in SCENES]).double().mean(1) / 255
    window = torch.hann_window(32, periodic=False, dtype=torch.float64)
    power = (
        torch.fft.fft2((images - images.mean((1, 2), keepdim=True)) * window * window[:, None]).abs().square().mean(0)
    )
    f = torch.fft.fftfreq(32) * 32
    ring = (f.square() + f[:, None].square()).sqrt().round()
    rings = torch.arange(2, 15)
    fall = np.polyfit(rings.log(), torch.stack([power[ring == k].mean() for k in rings]).log(), 1)[0]
    assert -3.5 < fall < -2


def test_the_classes_can_be_told_apart():
    train, test = (torch.stack([draw(s, r, 16) for s in SCENES]).float() for r in (range(40), range(40, 60)))
    means = train.mean(1).flatten(1)
    nearest = torch.cdist(test.flatten(0, 1).flatten(1), means).argmin(1)
    truth = torch.arange(len(SCENES)).repeat_interleave(20)
    assert (nearest == truth).float().mean() > 0.7  # chance: 0.1


def test_global_random_streams_are_neither_used_nor_moved():
    torch.manual_seed(1)
    first, state, numpy_state = draw("sea", [0]), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(draw("sea", [0]), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_no_picture_is_an_empty_batch():
    assert draw("fish", []).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scene": "moon", "indices": [0]}, "unknown scene 'moon'; there are sea, hills"),
        ({"scene": "sea", "indices": [0], "size": 7}, "at least 8 pixels, got 7"),
        ({"scene": "sea", "indices": [0, -1]}, r"must not be negative, got seed 0, indices \[0, -1\]"),
        ({"scene": "sea", "indices": [0], "seed": -3}, "got seed -3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(**arguments)
