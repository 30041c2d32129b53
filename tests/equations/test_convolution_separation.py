import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import nn

from leakage_audit.equations.convolution_range import mixed_inputs, reads
from leakage_audit.equations.convolution_separation import separate_convolution
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfTime


def network(stride=1, padding=1, bias=True, normalise=False, activation=nn.ReLU, channels=80):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(90) if normalise else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, 2, 1), activation(), nn.Conv2d(channels, 90, 3, stride, padding, bias=bias), norm,
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(90, 5),
    ).double()  # fmt: skip


def see(net, batch, size=8):
    images = draw(batch, 3, size, size)
    return observe(net, images, torch.arange(batch) % 5), net[:2](images).detach()


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 0, 1), (2, 0, 2)])
def test_reads_are_the_convolutions_own(stride, padding, dilation):
    x, w = draw(1, 1, 6, 7), draw(1, 1, 3, 3)
    read = reads((6, 7), (3, 3), (stride, stride), (padding, padding), (dilation, dilation))
    values = torch.cat([x.flatten(), torch.zeros(1).double()])[read]  # −1 reads the zero at the end
    torch.testing.assert_close(w.flatten() @ values, F.conv2d(x, w, None, stride, padding, dilation).flatten())


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_number_of_images_and_the_span_of_their_inputs(batch, padding):
    seen, inputs = see(network(padding=padding), batch)
    read = reads((4, 4), (3, 3), (1, 1), (padding, padding))
    mixed = mixed_inputs(seen.gradients["2.weight"], read, 16, 2.2e-16)
    assert len(mixed.values) == batch
    true, got = inputs.flatten(2).transpose(1, 2).flatten(1), mixed.values.flatten(1)
    fit = got.T @ torch.linalg.lstsq(got.T, true.T).solution
    torch.testing.assert_close(fit, true.T, atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalise", [False, True], ids=["bias", "training mode"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_each_images_input(batch, normalise):
    net = network(normalise=normalise, bias=not normalise)
    seen, inputs = see(net, batch)
    found = separate_convolution(seen, "2", 2.2e-16)
    assert found.inputs.shape == inputs.shape
    true = inputs if found.scaled else inputs / inputs.flatten(1).square().mean(1).sqrt()[:, None, None, None]
    distance, match = torch.cdist(found.inputs.flatten(1), true.flatten(1)).min(1)
    assert sorted(match.tolist()) == list(range(batch))
    assert distance.max() < 1e-5
    assert found.scaled is (not normalise)


class TestRefusals:
    def test_too_few_channels(self):
        assert separate_convolution(see(network(channels=60), 4)[0], "2", 2.2e-16) is None

    def test_no_zeros_in_the_inputs(self):
        assert separate_convolution(see(network(activation=nn.Sigmoid), 2)[0], "2", 2.2e-16) is None

    def test_the_first_layer_has_too_few_channels(self):
        assert separate_convolution(see(network(), 2)[0], "0", 2.2e-16) is None

    def test_neither_time_nor_memory(self):
        seen = see(network(), 2)[0]
        with pytest.raises(OutOfTime):
            separate_convolution(seen, "2", 2.2e-16, budget=Budget(seconds=1e-9))
        assert separate_convolution(seen, "2", 2.2e-16, max_memory_gb=1e-6) is None

    def test_stride_two_leaves_several_dimensions_an_image(self):
        assert separate_convolution(see(network(stride=2), 2)[0], "2", 2.2e-16) is None

    def test_no_such_layer(self):
        with pytest.raises(ValueError, match="no convolution 'x'"):
            separate_convolution(see(network(), 2)[0], "x", 2.2e-16)
