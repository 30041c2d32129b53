import lightning as L
import pytest
import torch
import torch.nn.functional as F
import torchvision
from cases import CONVOLUTIONS, NETWORKS, Functions, conv, draw, layer_of, modules
from torch import nn

from leakage_audit.models import VARIANTS, Variant, build
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.networks.layer_types import Convolution, Linear

SHAPE = (3, 8, 8)


def through(chain, x):
    for layer in chain:
        x = layer.activation.forward(layer(x))
    return x


@pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
def test_the_chain_computes_what_the_network_does(case):
    network, x = case.network(), draw(3, *case.shape)
    torch.testing.assert_close(through(read_chain(network, case.shape), x), network(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_every_geometry(name):
    module = conv(name)
    layer, x = layer_of(module), draw(2, module.in_channels, 7, 8)
    torch.testing.assert_close(layer(x), module(x), rtol=1e-12, atol=1e-12)
    assert layer(x).shape[1:] == layer.out_shape


@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool2d(2), nn.AvgPool2d(3, 1), nn.AvgPool2d((2, 3), padding=(1, 0)), nn.AvgPool2d(2, ceil_mode=True),
     nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((None, 2))],
    ids=str,
)  # fmt: skip
def test_average_pooling_is_a_convolution(pool):
    layer, x = layer_of(pool, (6, 8)), draw(2, 3, 6, 8)
    assert not layer.learned
    torch.testing.assert_close(layer(x), pool(x), rtol=1e-12, atol=1e-12)


def test_modules_and_functions_read_alike():
    for one, two in zip(read_chain(modules(), SHAPE), read_chain(Functions(), SHAPE), strict=True):
        assert type(one) is type(two)
        assert (one.activation.name, one.in_shape) == (two.activation.name, two.in_shape)


def test_names_are_the_modules_paths():
    names = [layer.name for layer in read_chain(Variant("cnn3_v1"), (3, 32, 32))]
    assert names == ["network.conv1", "network.conv2", "network.fc"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant):
    *convolutions, last = read_chain(build(variant), (3, 32, 32))
    assert all(isinstance(layer, Convolution) for layer in convolutions)
    assert isinstance(last, Linear)
    found = [
        (*layer.weight.shape[1::-1], layer.weight.shape[2], layer.stride[0], layer.padding[0]) for layer in convolutions
    ]
    assert found == list(VARIANTS[variant])


def test_a_lightning_module():
    class Mine(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters()
            self.body = modules()

        def forward(self, x):
            return self.body(x)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    network = Mine().double().eval()
    torch.testing.assert_close(through(read_chain(network, SHAPE), draw(2, *SHAPE)), network(draw(2, *SHAPE)))


@pytest.mark.parametrize("flatten", [
    lambda x: x.flatten(1), lambda x: torch.flatten(x, start_dim=1), lambda x: x.view(x.shape[0], -1),
    lambda x: x.reshape(-1, 192), lambda x: x.view(x.size(0), 192), lambda x: torch.reshape(x, (x.size(0), -1)),
    lambda x: x.contiguous().view((x.size()[0], -1)),
])  # fmt: skip
def test_ways_to_flatten(flatten):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(192, 4)

        def forward(self, x):
            return self.fc(flatten(x))

    (layer,) = read_chain(Flat(), SHAPE)
    assert layer.in_shape == (192,)


class Body(nn.Module):
    """Three layers and a forward pass given from outside."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.again, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(192, 4)
        self.pool, self._forward = nn.AvgPool2d(2), forward

    def forward(self, x):
        return self._forward(self, x)


def chain(*layers, features=192):
    return lambda: nn.Sequential(*(layer() for layer in layers), nn.Flatten(), nn.Linear(features, 4))


def tied():
    network = Body(lambda s, x: s.fc(s.again(s.conv(x)).flatten(1)))
    network.again.weight = network.conv.weight
    return network


REFUSALS = {
    "residual": (lambda: Body(lambda s, x: s.fc((x + s.conv(x)).flatten(1))), "add: two paths join here"),
    "residual by method": (lambda: Body(lambda s, x: s.fc(torch.add(s.conv(x), x).flatten(1))), "two paths join"),
    "branch": (lambda: Body(lambda s, x: (s.conv(x), s.fc(s.again(x).flatten(1)))[1]), "again: the data flow branches"),
    "concatenation": (lambda: Body(lambda s, x: s.fc(torch.cat([s.conv(x), x], 1).flatten(1))), "two paths join"),
    "shared module": (lambda: Body(lambda s, x: s.fc(s.conv(s.conv(x)).flatten(1))), "conv: used twice"),
    "tied weights": (tied, "again: its weight is another layer's"),
    "max pool": (chain(lambda: nn.MaxPool2d(2), features=48), r"0 \(MaxPool2d\): which entry was the maximum"),
    "max pool, function": (lambda: Body(lambda s, x: s.fc(F.max_pool2d(x, 1).flatten(1))), "max_pool2d.*the maximum"),
    "batch norm": (chain(lambda: nn.BatchNorm2d(3)), r"0 \(BatchNorm2d\): batch normalisation couples"),
    "group norm": (chain(lambda: nn.GroupNorm(1, 3)), "its scale depends on the whole input"),
    "transposed": (chain(lambda: nn.ConvTranspose2d(4, 3, 1)), "0: expects 4 channels, gets shape"),
    "reflect": (chain(lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "'reflect' is not supported"),
    "uneven same": (chain(lambda: nn.Conv2d(3, 3, 2, padding="same")), "padding 'same' is uneven"),
    "pooling divisor": (chain(lambda: nn.AvgPool2d(2, divisor_override=3), features=48), "divisor_override"),
    "pooling border": (chain(lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False)), "count_include_pad"),
    "pooling ceil": (chain(lambda: nn.AvgPool2d(3, ceil_mode=True), features=27), "incomplete window"),
    "pooling unequal": (chain(lambda: nn.AdaptiveAvgPool2d(3), features=27), "windows of unequal size"),
    "softmax": (lambda: Body(lambda s, x: s.fc(s.conv(x).flatten(1)).softmax(1)), "softmax"),
    "activation first": (chain(nn.Tanh), "must follow a linear layer directly"),
    "two activations": (chain(lambda: nn.Conv2d(3, 3, 1), nn.Tanh, nn.Sigmoid), r"2 \(sigmoid\): an activation must"),
    "unknown activation": (chain(lambda: nn.Conv2d(3, 3, 1), nn.PReLU), r"PReLU.*slope is shared"),
    "unknown module": (chain(lambda: nn.Upsample(scale_factor=1)), r"0 \(Upsample\): no layer system"),
    "unknown function": (lambda: Body(lambda s, x: s.fc(torch.fft.fft(x).flatten(1))), "fft"),
    "scaled": (lambda: Body(lambda s, x: s.fc(2 * x.flatten(1))), "mul"),
    "no linear layer": (lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), "last layer must be fully connected"),
    "nothing": (nn.Identity, "last layer must be fully connected"),
    "control flow": (lambda: Body(lambda s, x: s.fc(x.flatten(1)) if x.sum() > 0 else x), "cannot be followed"),
    "two outputs": (lambda: Body(lambda s, x: (s.fc(x.flatten(1)), 0)), "must return one tensor"),
    "no flatten": (lambda: nn.Sequential(nn.Linear(8, 4)), r"0: expects 8 features, gets \(3, 8, 8\): flatten first"),
    "channels": (chain(lambda: nn.Conv2d(4, 4, 3)), "0: expects 4 channels, gets shape"),
    "too small": (chain(lambda: nn.Conv2d(3, 3, 9)), "smaller than its kernel"),
    "flattening the batch": (lambda: Body(lambda s, x: s.fc(x.flatten())), "everything but the batch"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_operation_and_the_reason(make, message):
    with pytest.raises(UnreadableNetwork, match=message):
        read_chain(make(), SHAPE)


def test_resnet_is_refused():
    with pytest.raises(UnreadableNetwork, match=r"bn1 \(BatchNorm2d\)"):
        read_chain(torchvision.models.resnet18(), (3, 32, 32))


def test_reading_leaves_the_network_alone():
    network = modules().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    read_chain(network, SHAPE)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
