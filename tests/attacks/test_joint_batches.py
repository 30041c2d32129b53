import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.batch_separation import separate_batch
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.gauss_newton import initial_guess
from leakage_audit.solvers.per_image import may_be_solved_per_image, observations

EPS = relative_error_of(torch.float64)


def blobs(count, size=12):
    """Soft pictures, each another."""
    generator = torch.Generator().manual_seed(3)
    coarse = 0.5 + 0.2 * torch.randn(count, 3, 4, 4, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True).clamp(0, 1)


def paper(variant, size=12, classes=10):
    torch.manual_seed(10)
    return build(variant, classes, size)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Linear(12 * 100, 6)

    def forward(self, x):
        return self.fc(torch.tanh(self.norm(self.conv(x))).flatten(1))


def normalised():
    torch.manual_seed(0)
    return Normalised()


def see(network, labels, size=12, **options):
    images = blobs(len(labels), size)
    images = images.to(next(network.parameters()).dtype)
    return images, observe(network, images, torch.tensor(labels), mean=0.5, **options)


def features(seen, images):
    """What the last layer is fed."""
    kept = []
    handle = seen.network.fc.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0].detach()))
    seen.network(seen.to_input(images))
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("network", [paper("cnn3_v1"), normalised()], ids=["chain", "batch normalisation"])
def test_the_true_images_solve_the_equations(network):
    images, seen = see(network.double(), [1, 5, 1])
    separated = separate_batch(seen, EPS)
    equations = AutogradEquations(seen, EPS, separated)
    order = torch.cdist(separated.features, features(seen, images)).argmin(1)
    assert equations.residual(images[order]).abs().max() < 1e-6


def test_one_image_s_share_is_what_it_would_have_shared_alone():
    images, seen = see(paper("cnn2_v1").double(), [4, 2], grant_labels=True)
    for image, (alone, rounding) in zip(images, observations(seen, separate_batch(seen, EPS)), strict=True):
        assert rounding < 1e-10
        expected = observe(seen.network, image, alone.labels, mean=0.5).gradients
        assert alone.batch_size == 1
        for name, gradient in alone.gradients.items():
            torch.testing.assert_close(2 * gradient, expected[name])  # the batch averages over two


@pytest.mark.parametrize("variant", ["cnn2_v1", "cnn3_v3"])
@pytest.mark.parametrize("labels", [[0, 3], [2, 2], [5, 1, 5, 7]], ids=str)
def test_exact_where_one_image_s_is(variant, labels):
    images, seen = see(paper(variant), labels)
    found = Joint()(seen)
    assert found.succeeded
    assert min(score(found.images, images).psnr) > 80
    assert found.details["joint_deficiency"] == 0


def test_granted_labels_give_the_order():
    images, seen = see(paper("cnn2_v1"), [6, 1, 4], grant_labels=True)
    assert score(Joint()(seen).images, images).order == [0, 1, 2]


def test_what_couples_the_images_counts_where_features_fall_short():
    images, seen = see(paper("cnn2_v2", 16), [1, 5], 16)
    separated = separate_batch(seen.to(torch.float64), relative_error_of(torch.float32))
    assert not may_be_solved_per_image(seen, separated)
    found = Joint()(seen)
    assert found.succeeded
    assert min(score(found.images, images).psnr) > 30
    # Beyond the features: the weights' gradient, less what each image's features imply of it.
    assert found.details["rank"] > separated.features.numel()


def test_batch_normalisation_couples_the_images():
    images, seen = see(normalised(), [1, 5])
    assert not may_be_solved_per_image(seen, separate_batch(seen.to(torch.float64), relative_error_of(torch.float32)))
    found = Joint()(seen)
    assert found.succeeded
    # The batch's statistics take out what a convolution without padding makes of a channel's brightness.
    assert found.details["joint_deficiency"] == -3
    order = score(found.images, images).order
    shift = found.images.double() - images[order]
    assert (shift - shift.mean((0, 2, 3), keepdim=True)).abs().max() < 1e-3


def test_as_many_images_as_classes():
    # The last layer does not come apart: the loss itself is differentiated.
    images, seen = see(paper("cnn2_v1", 10, classes=4), [0, 1, 2, 3], 10, grant_labels=True)
    found = Joint()(seen)
    assert found.succeeded
    assert min(score(found.images, images).psnr) > 60


def test_starts_where_the_images_differ():
    _, seen = see(paper("cnn2_v1", 10, classes=2).double(), [1, 1], 10, grant_labels=True)
    begin = initial_guess(AutogradEquations(seen, EPS)).reshape(2, -1)
    assert not torch.allclose(begin[0], begin[1])
    _, seen = see(paper("cnn2_v1", 10, classes=2).double(), [0, 1], 10, grant_labels=True)
    assert torch.all(initial_guess(AutogradEquations(seen, EPS)) == GREY)


def test_the_time_is_up():
    _, seen = see(paper("cnn2_v1"), [0, 3])
    with pytest.raises(OutOfTime):
        Joint()(seen, Budget(seconds=1e-9))


def test_another_network_s_gradients_are_not_believed():
    torch.manual_seed(0)
    other = build("cnn2_v1", 10, 12)
    _, seen = see(paper("cnn2_v1"), [0, 3])
    _, wrong = see(other, [0, 3])
    for name, gradient in wrong.gradients.items():
        seen.gradients[name].copy_(gradient)
    found = Joint(max_steps=4)(seen)
    assert not found.succeeded
    assert torch.isfinite(found.images).all()
    assert math.isfinite(found.residual)


def test_global_random_numbers_are_left_alone():
    _, seen = see(paper("cnn2_v1"), [0, 3])
    stream = torch.get_rng_state()
    Joint()(seen)
    assert torch.equal(stream, torch.get_rng_state())
