import math

import pytest
import torch
from cases import Residual, draw
from limit_networks import batch, build
from torch import nn

from leakage_audit.measures.limit import GradientNoise, LimitOptions, reconstruction_limit
from leakage_audit.observation import observe
from leakage_audit.priors import Gaussian, Tikhonov


def test_attention_needs_no_fused_second_derivative():
    images, labels = batch()
    limit = reconstruction_limit(observe(build("attention"), images, labels), images, labels)
    assert limit.solved
    assert limit.psnr[0] > 15


def test_others_known_is_no_lower_and_duplicates_are_no_obstacle():
    images, labels = batch(3)
    images[1], labels[1] = images[0], labels[0]
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    known = reconstruction_limit(seen, images, labels, others="known")
    unknown = reconstruction_limit(seen, images, labels)
    assert len(known.rank) == 3
    assert len(unknown.rank) == 1
    assert all(a >= b - 0.5 for a, b in zip(known.psnr, unknown.psnr, strict=True))
    assert unknown.psnr[0] == pytest.approx(unknown.psnr[1], abs=1e-3)


def test_noise_lowers_it_and_random_sums_keep_it():
    torch.manual_seed(0)
    images, labels = batch(1, 6)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 16, 3), nn.Tanh(), nn.Flatten())
    network = nn.Sequential(network, nn.Linear(64, 5)).double()
    seen = observe(network, images, labels, mean=0.5)
    found = []
    for noise in (1e-3, 1e-1, 1e1):
        every, sums = (
            reconstruction_limit(
                seen, images, labels, options=LimitOptions(noise=GradientNoise(relative=noise), rows_per_unknown=k)
            )
            for k in (1e9, 4.0)
        )
        assert sums.equations == 4 * 108 < every.equations
        assert sums.rank == every.rank == (108,)
        assert sums.psnr == pytest.approx(every.psnr, abs=5)
        found.append(every.psnr[0])
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("rows", [2.0, 4.0])
def test_random_sums_of_many_small_layers_say_as_much(rows):
    """No layer alone has as many entries as there are unknowns: sums of each by itself would lose what they share."""
    torch.manual_seed(0)
    images, labels = batch(1, 6)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Tanh()]
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]
    network = nn.Sequential(*layers, nn.AvgPool2d(3), nn.Flatten(), nn.Linear(32, 5)).double()
    seen = observe(network, images, labels, mean=0.5)
    noise = GradientNoise(relative=1e-3)
    every, sums = (
        reconstruction_limit(seen, images, labels, options=LimitOptions(noise=noise, rows_per_unknown=k))
        for k in (1e9, rows)
    )
    assert sums.equations == rows * 108 < every.equations
    # Of Gaussian sums the variance is that of all entries by 1 / (1 − unknowns / sums) in the mean.
    assert every.psnr_with_noise[0] - 10 * math.log10(rows / (rows - 1)) - 1.5 < sums.psnr_with_noise[0]
    assert sums.psnr_with_noise[0] < every.psnr_with_noise[0] + 0.5


def test_noise_in_the_gradients_own_units():
    images, labels = batch()
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    sizes = {name: float(g.square().mean().sqrt()) for name, g in seen.gradients.items()}
    by_name = LimitOptions(noise=GradientNoise(std={name: 0.1 * size for name, size in sizes.items()}))
    relative = LimitOptions(noise=GradientNoise(relative=0.1))
    found = [reconstruction_limit(seen, images, labels, options=o).psnr[0] for o in (by_name, relative)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    with pytest.raises(ValueError, match="no gradient was shared of nothing"):
        reconstruction_limit(seen, images, labels, options=LimitOptions(noise=GradientNoise(std={"nothing": 1.0})))


def test_residual_network_and_another_prior():
    torch.manual_seed(0)
    images, labels = batch(1, 12)
    seen = observe(Residual(nn.ReLU()), images.float(), labels)
    limit = reconstruction_limit(seen, images, labels, prior=Tikhonov())
    assert limit.solved
    assert limit.settings["prior"] == "Tikhonov"
    few = LimitOptions(max_dense_flops=0, products=20)
    free = reconstruction_limit(seen, images, labels, prior=Tikhonov(), options=few)
    assert 0 < free.psnr[0] <= limit.psnr[0] + 0.1  # at least, and never more
    elsewhere = Gaussian(torch.full((3, 12, 12), 0.3, dtype=torch.float64), torch.eye(432, dtype=torch.float64))
    with pytest.raises(ValueError, match="max_memory_gb"):
        reconstruction_limit(seen, images, labels, prior=elsewhere, options=LimitOptions(max_memory_gb=1e-4))


def test_a_gradient_that_says_nothing():
    class Flat(nn.Linear):
        def forward(self, x):
            return 0 * super().forward(x.flatten(1))

    images, labels = batch()
    limit = reconstruction_limit(observe(Flat(192, 4).double(), images, labels), images, labels)
    assert limit.solved
    assert limit.rank == (0,)
    torch.testing.assert_close(limit.images, torch.full_like(images, 0.5))


def test_one_image_needs_no_batch_around_it():
    images, labels = batch()
    seen = observe(build("strided tanh"), images, labels)
    limit = reconstruction_limit(seen, images[0], labels[0].item())
    assert limit.psnr == reconstruction_limit(seen, images, labels).psnr
    assert limit.images.shape == images.shape
    with pytest.raises(ValueError, match="need images"):  # a batch of two is not made whole by one of them
        reconstruction_limit(observe(build("strided tanh"), *batch(2)), images[0], labels[0].item())


def test_what_does_not_fit():
    images, labels = batch(2)
    seen = observe(build("strided tanh"), images, labels)
    with pytest.raises(ValueError, match="need images"):
        reconstruction_limit(seen, images[:1], labels)
    with pytest.raises(ValueError, match="others"):
        reconstruction_limit(seen, images, labels, others="some")
    with pytest.raises(ValueError, match="NaN"):
        reconstruction_limit(seen, images * math.nan, labels)
    with pytest.raises(ValueError, match="negative"):
        GradientNoise(std=-1.0)
    with pytest.raises(ValueError, match="positive"):
        LimitOptions(max_memory_gb=0)


def test_the_global_generator_is_left_alone():
    images, labels = batch()
    seen = observe(build("batch statistics").eval(), draw(*images.shape), labels)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    reconstruction_limit(seen, images, labels, options=LimitOptions(noise=GradientNoise(relative=0.1)))
    assert torch.equal(torch.rand(1), expected)
