import dataclasses
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from cases import NETWORKS, draw, modules
from torch import nn

from leakage_audit.observation import Observation, observe

IMAGES, LABELS = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), [2, 0, 1]


def network():
    torch.manual_seed(0)
    return modules().eval()


def autograd(model, x, labels, loss=F.cross_entropy):
    """Gradients by `backward`, on the model itself."""
    model.zero_grad()
    loss(model(x), torch.as_tensor(labels)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(one, two):
    assert list(one) == list(two)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))])
def test_gradients_are_those_of_training(mean, std):
    mean_c, std_c = (torch.tensor(v).reshape(-1, 1, 1) for v in (mean, std))
    seen = observe(network(), IMAGES, LABELS, mean=mean, std=std)
    same(seen.gradients, autograd(network(), (IMAGES - mean_c) / std_c, LABELS))
    assert (seen.batch_size, seen.input_shape, seen.labels) == (3, (3, 8, 8), None)
    torch.testing.assert_close(seen.to_image(seen.to_input(IMAGES)), IMAGES)


def test_one_image_without_a_batch_dimension():
    same(observe(network(), IMAGES[0], 2).gradients, observe(network(), IMAGES[:1], [2]).gradients)


def test_any_loss():
    def loss(scores, labels):
        return F.multi_margin_loss(scores, labels)

    same(observe(network(), IMAGES, LABELS, loss).gradients, autograd(network(), IMAGES, LABELS, loss))


def test_labels_only_if_granted():
    assert observe(network(), IMAGES, LABELS).labels is None
    assert observe(network(), IMAGES, LABELS, grant_labels=True).labels.tolist() == LABELS


def tensors(value):
    """Every tensor that an object reaches by its fields."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif dataclasses.is_dataclass(value):
        yield from (t for f in dataclasses.fields(value) for t in tensors(getattr(value, f.name)))
    elif isinstance(value, dict):
        yield from (t for v in value.values() for t in tensors(v))
    elif isinstance(value, tuple | list):
        yield from (t for v in value for t in tensors(v))


def test_the_image_is_not_kept():
    images = IMAGES.clone()
    alive = weakref.ref(images)
    seen = observe(network(), images, LABELS)
    pointers = {t.untyped_storage().data_ptr() for t in tensors(seen)}
    assert images.untyped_storage().data_ptr() not in pointers
    assert all(t.shape[-2:] != images.shape[-2:] for t in tensors(seen))
    assert not any(t.requires_grad or t.grad_fn for t in seen.gradients.values())
    del images
    gc.collect()
    assert alive() is None


def test_no_field_is_for_an_image():
    assert not any("image" in field.name and field.name != "value_range" for field in dataclasses.fields(Observation))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_not_touched(training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).train(training)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    observe(model, IMAGES, LABELS)
    same(dict(model.state_dict()), before)
    assert model.training is training
    assert (model[0].weight.grad == 1).all()
    assert model[0].bias.grad is None


def test_the_copy_is_its_own():
    model = network()
    seen = observe(model, IMAGES, LABELS)
    with torch.no_grad():
        model[0].weight.zero_()
    assert seen.network[0].weight.abs().min() > 0
    assert list(seen.parameters) == list(seen.gradients)


def test_frozen_and_unused_parameters_share_nothing():
    model = network()
    model[0].bias.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.zeros(2)))
    seen = observe(model, IMAGES, LABELS)
    assert "0.bias" not in seen.gradients
    assert "unused" not in seen.gradients
    assert "0.weight" in seen.gradients


def test_inside_inference_mode():
    model = network()
    with torch.inference_mode():
        seen = observe(model, IMAGES.clone(), torch.tensor(LABELS))
    same(seen.gradients, observe(model, IMAGES, LABELS).gradients)


def test_global_random_numbers_are_left_alone_without_dropout():
    state = torch.get_rng_state()
    observe(network(), IMAGES, LABELS)
    assert torch.equal(torch.get_rng_state(), state)


def test_to_another_type():
    seen = observe(network(), IMAGES, LABELS)
    double = seen.to(torch.float64)
    assert double.dtype == next(double.network.parameters()).dtype == torch.float64
    assert next(seen.network.parameters()).dtype == seen.dtype == torch.float32
    assert double.to(torch.float64) is double


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite(value):
    seen, _ = NETWORKS["stride"].observe()
    seen.gradients["0.weight"][0, 0, 0, 0] = value
    assert seen.problem() == "the gradient of 0.weight holds NaN or infinite values"


def test_gradients_that_are_zero():
    seen, _ = NETWORKS["stride"].observe(loss=lambda scores, labels: 0 * scores.sum())
    assert "every gradient is zero" in seen.problem()
    assert NETWORKS["stride"].observe()[0].problem() is None


BAD = {
    "integers": (lambda: observe(network(), torch.zeros(3, 8, 8, dtype=torch.uint8), 0), r"floating point.*uint8"),
    "flat": (lambda: observe(network(), torch.zeros(8, 8), 0), r"got torch.float32 \(8, 8\)"),
    "too few labels": (lambda: observe(network(), IMAGES, [0]), "3 images but 1 labels"),
    "label too large": (lambda: observe(network(), IMAGES[0], 4), r"labels must lie in 0 … 3, got \[4\]"),
    "label below zero": (lambda: observe(network(), IMAGES[0], -1), r"labels must lie in 0 … 3, got \[-1\]"),
    "nothing to train": (lambda: observe(nn.Flatten(), IMAGES[0], 0), "Flatten has no trainable parameter"),
    "frozen": (lambda: observe(network().requires_grad_(False), IMAGES[0], 0), "no trainable parameter"),
    "no scores": (lambda: observe(nn.Conv2d(3, 4, 3), IMAGES[0], 0), r"class scores .* got shape \(1, 4, 6, 6\)"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_double_precision():
    seen, x = NETWORKS["one convolution"].observe()
    assert seen.dtype == torch.float64
    same(seen.gradients, autograd(NETWORKS["one convolution"].network(), draw(1, *x.shape[1:]), [1]))
