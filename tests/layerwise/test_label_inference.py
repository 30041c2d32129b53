import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from leakage_audit.layerwise.label_inference import labels_for, least_counts
from leakage_audit.observation import observe

CLASSES = 5


def classifier(activation=nn.ReLU, bias=True, classes=CLASSES, seed=0):
    torch.manual_seed(seed)
    convolution = nn.Conv2d(3, 4, 3, 2, bias=False)
    return nn.Sequential(convolution, activation(), nn.Flatten(), nn.Linear(36, classes, bias=bias)).double()


def images(count, seed=1):
    return torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("label", range(CLASSES))
def test_single_image_label_is_read_exactly(activation, bias, label):
    seen = observe(classifier(activation, bias), images(1), label)
    labels, inferred = labels_for(seen)
    assert labels.tolist() == [label]
    assert inferred
    assert least_counts(seen).tolist() == [int(k == label) for k in range(CLASSES)]


@pytest.mark.parametrize("label", [0, 1])
def test_two_classes_without_bias_need_positive_features(label):
    assert labels_for(observe(classifier(bias=False, classes=2), images(1), label))[0].tolist() == [label]


def test_granted_labels_are_taken_as_they_are():
    seen = observe(classifier(), images(3), torch.tensor([4, 0, 4]), grant_labels=True)
    labels, inferred = labels_for(seen)
    assert labels.tolist() == [4, 0, 4]
    assert not inferred


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, CLASSES - 1), min_size=2, max_size=8), st.booleans())
def test_batch_counts(labels, bias):
    """The true counts, and never less than is certain, nor more certain than is true."""
    seen = observe(classifier(bias=bias), images(len(labels)), torch.tensor(labels))
    found, inferred = labels_for(seen)
    least, true = least_counts(seen), torch.bincount(torch.tensor(labels), minlength=CLASSES)
    assert inferred
    assert (least <= true).all()
    assert (torch.bincount(found, minlength=CLASSES) >= least).all()
    assert len(found) == len(labels)


def test_most_batches_are_counted_rightly():
    """No certainty: features far from their class's average mislead; 85 % of all lists of five are right."""
    generator = torch.Generator().manual_seed(0)
    lists = [torch.randint(0, CLASSES, (5,), generator=generator) for _ in range(60)]
    right = [
        labels_for(observe(classifier(), images(5), one))[0].tolist() == one.sort().values.tolist() for one in lists
    ]
    assert sum(right) >= 45


def test_noise_on_the_gradient_still_gives_as_many_labels_as_images():
    for seed in range(20):
        seen = observe(classifier(), images(4), torch.tensor([0, 1, 2, 3]))
        generator = torch.Generator().manual_seed(seed)
        noisy = {k: g + torch.randn(g.shape, generator=generator, dtype=g.dtype) for k, g in seen.gradients.items()}
        seen.gradients.clear()
        seen.gradients.update(noisy)
        assert len(labels_for(seen)[0]) == 4


def test_without_a_linear_layer_says_what_to_do():
    network = nn.Sequential(nn.Conv2d(3, CLASSES, 8), nn.Flatten()).double()
    seen = observe(network, images(1), 0)
    with pytest.raises(ValueError, match="grant them"):
        labels_for(seen)
