import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import nn

from leakage_audit.layerwise.fully_connected import delta_and_features, input_from_gradient
from leakage_audit.networks.chain import read_chain
from leakage_audit.observation import observe

SHAPE = (2, 3, 3)
LOSSES = {
    "cross entropy": F.cross_entropy,
    "half of it": lambda scores, labels: 0.5 * F.cross_entropy(scores, labels),
    "a thousandth": lambda scores, labels: 1e-3 * F.cross_entropy(scores, labels),
    "smoothed": lambda scores, labels: F.cross_entropy(scores, labels, label_smoothing=0.1),
    "squares": lambda scores, labels: F.mse_loss(scores, F.one_hot(labels, scores.shape[1]).to(scores.dtype)),
}


def linear(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), *layers).double()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("label", [0, 3])
def test_input_of_one_layer(loss, bias, label):
    network, x = linear(nn.Linear(18, 4, bias=bias)), draw(1, *SHAPE)
    seen = observe(network, x, label, loss, grant_labels=True)
    delta, found = delta_and_features(read_chain(network, SHAPE)[-1], seen)
    torch.testing.assert_close(found, x.flatten(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.outer(delta, found), seen.gradients["1.weight"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_labels_need_not_be_granted(bias):
    network, x = linear(nn.Linear(18, 4, bias=bias)), draw(1, *SHAPE)
    _, found = delta_and_features(read_chain(network, SHAPE)[-1], observe(network, x, 2))
    torch.testing.assert_close(found, x.flatten(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_without_a_bias_from_a_hesitant_or_a_confident_network(scale, seed):
    network, x = linear(nn.Linear(18, 6, bias=False), seed=seed), draw(1, *SHAPE, seed=seed)
    with torch.no_grad():
        network[1].weight *= scale
    seen = observe(network, x, 1, grant_labels=True)
    _, found = delta_and_features(read_chain(network, SHAPE)[-1], seen)
    torch.testing.assert_close(found, x.flatten(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh()])
def test_an_activation_on_the_scores(activation):
    network, x = linear(nn.Linear(18, 4), activation), draw(1, *SHAPE)
    seen = observe(network, x, 2, grant_labels=True)
    delta, found = delta_and_features(read_chain(network, SHAPE)[-1], seen)
    torch.testing.assert_close(found, x.flatten(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(delta, seen.gradients["1.bias"], rtol=1e-8, atol=1e-10)


def test_a_bias_that_was_not_trained():
    network, x = linear(nn.Linear(18, 4)), draw(1, *SHAPE)
    network[1].bias.requires_grad_(False)
    _, found = delta_and_features(read_chain(network, SHAPE)[-1], observe(network, x, 2, grant_labels=True))
    torch.testing.assert_close(found, x.flatten(), rtol=1e-9, atol=1e-9)


def test_least_squares_over_the_rows():
    gradient, delta = draw(4, 7), draw(4, seed=2)
    expected = torch.linalg.lstsq(delta[:, None], gradient).solution[0]
    torch.testing.assert_close(input_from_gradient(gradient, delta), expected)


def test_nothing_to_start_from():
    network, x = linear(nn.Linear(18, 4)), draw(1, *SHAPE)
    network[1].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"the gradient of 1\.weight was not shared"):
        delta_and_features(read_chain(network, SHAPE)[-1], observe(network, x, 0))


def test_a_flat_loss():
    with pytest.raises(ValueError, match="derivative at a fully connected layer is zero"):
        input_from_gradient(torch.zeros(4, 7), torch.zeros(4))


def test_the_wrong_loss():
    network, x = linear(nn.Linear(18, 4, bias=False)), draw(1, *SHAPE)
    seen = observe(network, x, 0, lambda s, y: s.sum() * 1e-30 - 1e9 * F.cross_entropy(s, y), grant_labels=True)
    with pytest.raises(ValueError, match="no scale of 1's input fits the loss"):
        delta_and_features(read_chain(network, SHAPE)[-1], seen)
