import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.batch_separation import separate_batch
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget

EPS = {dtype: relative_error_of(dtype) for dtype in (torch.float32, torch.float64)}


def network(classes=6, seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, classes, bias=bias)
    )  # fmt: skip


def see(labels, net=None, dtype=torch.float64, images=None, **options):
    net = (network() if net is None else net).to(dtype)
    images = (0.5 + 0.2 * draw(len(labels), 3, 8, 8) if images is None else images).to(dtype)
    return images, observe(net, images, torch.tensor(labels), mean=0.5, **options)


def truth(seen, images, labels):
    """Features and ∂L/∂z of each image, by autograd through the true batch."""
    features = seen.network[:-1](seen.to_input(images)).detach()
    z = seen.network[-1](features).detach().requires_grad_()
    return features, torch.autograd.grad(seen.loss(z, labels), z)[0]


@pytest.mark.parametrize("labels", [[0, 3], [2, 2], [1, 0, 4, 5], [3, 1, 3, 3, 0]], ids=str)
@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_features_and_derivatives_are_the_images_own(labels, granted, dtype):
    images, seen = see(labels, dtype=dtype, grant_labels=granted)
    found = separate_batch(seen.to(torch.float64), EPS[dtype])
    assert sorted(found.labels.tolist()) == sorted(labels)
    features, delta = truth(seen.to(torch.float64), images.double(), torch.tensor(labels))
    distance, match = torch.cdist(found.features, features).min(1)
    assert sorted(match.tolist()) == list(range(len(labels)))
    assert torch.all(distance / features.shape[1] ** 0.5 < 10 * found.noise)
    assert found.noise.max() < 2500 * EPS[dtype]
    torch.testing.assert_close(found.delta, delta[match], atol=25000 * EPS[dtype], rtol=0)


def test_other_losses():
    images, seen = see([0, 4, 2], loss=nn.CrossEntropyLoss(label_smoothing=0.1), grant_labels=True)
    found = separate_batch(seen, EPS[torch.float64])
    features, _ = truth(seen, images, seen.labels)
    torch.testing.assert_close(found.features, features)


def test_wrong_labels_are_overruled():
    _, seen = see([0, 4, 2], grant_labels=True)
    seen.labels[:] = torch.tensor([1, 4, 2])
    assert sorted(separate_batch(seen, EPS[torch.float64]).labels.tolist()) == [0, 2, 4]


def test_labels_that_look_otherwise_are_found():
    # A bias that makes one class likely beforehand hides the images that are of it.
    net = network().double()
    with torch.no_grad():
        net[-1].bias[3] += 2
    labels = [3, 3, 1]
    images, seen = see(labels, net)
    found = separate_batch(seen, EPS[torch.float64])
    features, _ = truth(seen, images, torch.tensor(labels))
    assert torch.cdist(found.features, features).min(1)[0].max() < 1e-8


def test_noise_is_noticed():
    images, seen = see([0, 4])
    seen.gradients["3.weight"][:] += 1e-4 * seen.gradients["3.weight"].abs().max() * draw(6, 144)
    found = separate_batch(seen, EPS[torch.float64])
    features, _ = truth(seen, images, torch.tensor([0, 4]))
    error = (found.features[:, None] - features).square().mean(-1).sqrt().min(1)[0]
    assert torch.all(error < 10 * found.noise)
    assert found.noise.min() > 1e-6


class TestRefusals:
    def test_no_fewer_images_than_classes(self):
        assert separate_batch(see([0, 1, 2], network(classes=3))[1], EPS[torch.float64]) is None

    def test_an_image_twice(self):
        images = (0.5 + 0.2 * draw(1, 3, 8, 8)).repeat(2, 1, 1, 1)
        assert separate_batch(see([2, 2], images=images)[1], EPS[torch.float64]) is None

    def test_no_bias(self):
        assert separate_batch(see([0, 1], network(bias=False))[1], EPS[torch.float64]) is None

    def test_no_fully_connected_layer(self):
        net = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten())
        assert separate_batch(see([0, 1], net)[1], EPS[torch.float64]) is None

    def test_gradients_of_another_network(self):
        seen, other = see([0, 1])[1], see([0, 1], network(seed=5))[1]
        for name, gradient in other.gradients.items():
            seen.gradients[name].copy_(gradient)
        assert separate_batch(seen, EPS[torch.float64]) is None

    def test_the_time_is_up(self):
        assert separate_batch(see([0, 1])[1], EPS[torch.float64], Budget(seconds=1e-9)) is None


@pytest.mark.parametrize("labels", [[0, 3], [1, 0, 4, 5]], ids=str)
def test_the_features_errors_have_the_size_that_is_told(labels):
    relative, shares = 1e-5, []
    for seed in range(8):
        images, seen = see(labels)
        leaked = [seen.gradients[f"3.{kind}"] for kind in ("weight", "bias")]
        size = relative * torch.cat([g.flatten() for g in leaked]).square().mean().sqrt()
        for place, g in enumerate(leaked):
            g += size * draw(*g.shape, seed=10 * seed + place)
        found = separate_batch(seen, relative)
        features, _ = truth(seen, images, torch.tensor(labels))
        shares.append(torch.cdist(found.features, features).min(1)[0] / features.shape[1] ** 0.5 / found.noise)
    # Two parts of the noise are added as if they always went together: a little too much, never too little.
    assert 0.75 < float(torch.stack(shares).square().mean().sqrt()) < 1.0


def test_more_images_than_the_last_layer_has_inputs_stay_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 10))
    seen = observe(model, torch.rand(8, 3, 8, 8), torch.arange(8), mean=0.5).to(torch.float64)
    assert separate_batch(seen, 1e-6, Budget()) is None
