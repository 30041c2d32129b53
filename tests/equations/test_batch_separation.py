from collections import Counter

import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations import batch_separation
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.batch_separation import SeparationOptions, _labellings, _MixingProblem, separate_batch
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


@pytest.mark.parametrize("otherwise", [0, 1, 7, 30])
def test_so_many_other_labels_are_tried_each_once_the_near_ones_first(otherwise, monkeypatch):
    monkeypatch.setattr(batch_separation, "least_counts", lambda seen: torch.zeros(6, dtype=torch.long))
    _, seen = see([0, 4, 2])
    likeliest, *others = [tuple(labels.tolist()) for labels in _labellings(seen, otherwise)]
    assert len(others) == otherwise
    assert len({likeliest, *others}) == otherwise + 1
    changed = [3 - sum((Counter(labels) & Counter(likeliest)).values()) for labels in others]
    assert changed == sorted(changed)
    assert all(count >= 1 for count in changed)
    assert all(len(labels) == 3 for labels in others)  # as many as there are images


def problem(**options):
    _, seen = see([0, 4, 2])
    last = seen.network[-1]
    weight, bias = (seen.gradients[f"3.{kind}"] for kind in ("weight", "bias"))
    own = torch.cat([last.weight, last.bias[:, None]], 1).detach()
    gradient = torch.cat([weight, bias[:, None]], 1)
    return _MixingProblem(gradient, own, seen, EPS[torch.float64], SeparationOptions(**options)), gradient


def test_a_start_pairs_the_span_with_the_derivatives_of_scores_drawn_around_the_average():
    labels = torch.tensor([0, 4, 2])
    narrow, gradient = problem(spreads=(1e-9,))
    truth = torch.nn.functional.one_hot(labels, 6).double()
    average = (gradient[:, -1] + truth.mean(0)).clamp_min(1e-6)
    delta = (average / average.sum() - truth) / 3
    expected = torch.linalg.lstsq(delta.T, torch.linalg.svd(gradient)[0][:, :3]).solution.T
    torch.testing.assert_close(narrow._start(labels, 0), expected, rtol=1e-6, atol=1e-6)


def test_each_start_is_another_and_the_spreads_take_turns():
    labels = torch.tensor([0, 4, 2])
    turns, _ = problem(spreads=(1e-9, 1.0))
    starts = [turns._start(labels, k) for k in range(4)]
    torch.testing.assert_close(starts[0], starts[2], rtol=1e-6, atol=1e-6)
    assert (starts[1] - starts[3]).abs().max() > 0.01
    assert torch.equal(turns._start(labels, 1), starts[1])


@pytest.mark.parametrize(("clear", "complete"), [(0.5, True), (2.0, False)])
def test_an_images_trace_must_stand_out_of_the_noise(clear, complete):
    plain, gradient = problem()
    ratio = float(torch.linalg.svdvals(gradient)[2]) / (plain._noise * gradient.shape[1] ** 0.5)
    assert problem(clear=clear * ratio)[0].complete is complete


def test_more_images_than_the_last_layer_has_inputs_stay_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 10))
    seen = observe(model, torch.rand(8, 3, 8, 8), torch.arange(8), mean=0.5).to(torch.float64)
    assert separate_batch(seen, 1e-6, Budget()) is None
