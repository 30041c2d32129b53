from types import SimpleNamespace

import pytest
import torch
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.batch_separation import SeparatedBatch, SeparationOptions
from leakage_audit.equations.choose import separate
from leakage_audit.equations.hidden_separation import HiddenSeparationOptions
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.per_image import observations
from leakage_audit.solvers.read_off import read_off


def mlp(activation=nn.ReLU, classes=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), activation(), nn.Linear(64, classes))


def convolutional():
    """A smooth convolution under a rectified layer: its input tells each image, and its own image is to be solved."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 120), nn.ReLU(), nn.Linear(120, 4)
    )


def see(network, batch, classes=10, **options):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(batch, 3, 8, 8, generator=generator).to(next(network.parameters()).dtype)
    labels = torch.randint(classes, (batch,), generator=generator)
    return images, labels, observe(network, images, labels, **options)


def separated(seen):
    error = relative_error_of(seen.dtype)
    return separate(seen, error, error / 4, Budget(), SeparationOptions(), HiddenSeparationOptions(), 1.0)


@pytest.mark.parametrize(("batch", "normalisation"), [(4, {}), (12, {}), (4, {"mean": 0.1, "std": (0.2, 0.3, 0.4)})])
def test_a_fully_connected_network_s_images_whatever_their_number(batch, normalisation):
    images, _, seen = see(mlp(), batch, **normalisation)
    found = Joint()(seen)
    assert found.succeeded
    assert found.details["separated_by"] == "1"
    assert min(score(found.images, images).psnr) > 100
    assert found.details["joint_deficiency"] == 0
    assert found.details["pinned"] == images.numel()
    assert found.details["std"].shape == images.shape


def test_more_images_than_classes_below_a_convolution_too():
    images, _, seen = see(convolutional(), 6, classes=4, mean=0.1)
    found = Joint()(seen)
    assert found.succeeded
    assert found.details["separated_by"] == "3"
    assert min(score(found.images, images).psnr) > 100


def test_one_image_s_share_is_what_it_would_have_shared_alone():
    images, labels, seen = see(convolutional().double(), 6, classes=4, grant_labels=True)
    below, batch = separated(seen)
    assert batch.layer == "3"
    assert list(below.gradients) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    singles = [one for one, _ in observations(below, batch)]
    assert torch.equal(torch.cat([one.labels for one in singles]), labels)
    for one in singles:
        errors = []
        for image in images[labels == one.labels]:
            expected = observe(seen.network, image, one.labels).gradients
            errors.append(max(float((6 * g - expected[name]).abs().max()) for name, g in one.gradients.items()))
        assert min(errors) < 1e-9  # the batch averages over six


def test_granted_labels_give_the_order():
    images, labels, seen = see(mlp(), 10, grant_labels=True)
    found = Joint()(seen)
    alone = [k for k, label in enumerate(labels.tolist()) if labels.tolist().count(label) == 1]
    torch.testing.assert_close(found.images[alone].float(), images[alone], atol=1e-4, rtol=0)
    assert len(alone) > 2
    assert min(score(found.images, images).psnr) > 100


def test_other_labels_granted_than_those_found_separate_nothing():
    _, labels, seen = see(mlp().double(), 12, grant_labels=True)
    assert separated(seen)[1].layer == "1"
    labels[0] = (labels[0] + 1) % 10
    seen.labels.copy_(labels)
    assert separated(seen) is None


def test_what_no_layer_separates_is_found_as_before():
    images, _, seen = see(mlp(nn.Tanh, classes=4), 5, classes=4, grant_labels=True)
    found = Joint(max_steps=3)(seen)
    assert found.details["separated_by"] is None
    assert found.images.shape == images.shape
    assert torch.isfinite(found.images).all()


def test_the_last_layer_comes_first_where_it_is_enough():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12 * 36, 10))
    images, _, seen = see(network, 3, mean=0.5)
    found = Joint()(seen)
    assert found.details["separated_by"] == "3"
    assert min(score(found.images, images).psnr) > 80


class Mixed(nn.Module):
    """A fully connected layer of the image with its columns in another order, or of something else."""

    def __init__(self, mix):
        super().__init__()
        self.fc, self.mix = nn.Linear(192, 64), mix

    def forward(self, x):
        return self.fc(self.mix(x).flatten(1))


def test_an_image_in_another_order_is_read_off():
    images, _, seen = see(Mixed(lambda x: x.flip(3)), 2)
    features = seen.to_input(images).flip(3).flatten(1).double()
    batch = SeparatedBatch("fc", torch.zeros(2, 64), features, torch.zeros(2), torch.zeros(2))
    found = read_off(SimpleNamespace(residual=lambda image: 0 * image), seen, batch)
    torch.testing.assert_close(found.image.reshape(images.shape), images.double())


def test_only_the_image_itself_is_read_off():
    _, _, seen = see(Mixed(lambda x: x + x.flip(3)), 2)
    batch = SeparatedBatch("fc", *(torch.zeros(2, k) for k in (64, 192)), torch.zeros(2), torch.zeros(2))
    assert read_off(None, seen, batch) is None


def test_running_statistics_stay_as_they_were():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)
    )
    _, _, seen = see(network.double(), 4, classes=3)
    before = {name: buffer.clone() for name, buffer in seen.network.named_buffers()}
    assert separated(seen) is None  # batch statistics couple the images
    assert all(torch.equal(before[name], buffer) for name, buffer in seen.network.named_buffers())


def test_the_time_is_up():
    _, _, seen = see(mlp(), 12)
    with pytest.raises(OutOfTime):
        Joint()(seen, Budget(seconds=1e-9))


def test_the_last_layer_is_left_where_no_hidden_one_separates():
    _, _, seen = see(mlp(), 2)
    strict = JointOptions(hidden=HiddenSeparationOptions(min_equations=1e3))
    assert Joint()(seen).details["separated_by"] == "1"
    assert Joint(max_steps=1, options=strict)(seen).details["separated_by"] == "3"
