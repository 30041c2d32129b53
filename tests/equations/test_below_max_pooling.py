import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.equations.below_max_pooling import below_max_pooling
from leakage_audit.equations.choose import equations_of_one
from leakage_audit.equations.pooled_maxima import PooledMaximaOptions
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.equations.watched_recovery import watch_backwards
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget


class Pooled(nn.Module):
    """A convolution whose maxima feed a hidden fully connected layer; below it another one, with tanh."""

    def __init__(self, after=F.relu, pool=F.max_pool2d, rectifier_first=True, **convolution):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 20, 3, **convolution)
        self.after, self.pool, self.rectifier_first = after, pool, rectifier_first
        with torch.no_grad():
            size = self.features(torch.zeros(1, 3, 10, 10)).shape[1]
        self.fc1, self.fc2 = nn.Linear(size, 30), nn.Linear(30, 5)

    def features(self, x):
        x = self.conv2(self.conv1(x).tanh())
        return (self.pool(self.after(x), 2) if self.rectifier_first else self.after(self.pool(x, 2))).flatten(1)

    def forward(self, x):
        return self.fc2(self.fc1(self.features(x)).relu())


def see(seed=0, **network):
    torch.manual_seed(seed)
    model = Pooled(**network).double()
    image = F.interpolate(torch.rand(1, 3, 4, 4, dtype=torch.float64), (10, 10), mode="bicubic").clamp(0, 1)
    seen = observe(model, image, torch.tensor([2]), mean=0.5)
    fed = model.conv1(seen.to_input(image)).tanh().detach().requires_grad_()
    after = model.conv2(fed)
    F.cross_entropy(model.fc2(model.fc1(model.pool(after.relu(), 2).flatten(1)).relu()), torch.tensor([2])).backward()
    return seen, fed.detach(), fed.grad


def found_in(seen, **options):
    known = [layer for layer in watch_backwards(seen, 1e-15) if layer.name == "fc1"]
    return below_max_pooling(seen, known[-1], options=PooledMaximaOptions(**options)) if known else None


@pytest.mark.parametrize(
    "network",
    [{}, {"rectifier_first": False}, {"padding": 1}, {"stride": 2, "padding": 2}],
    ids=["rectifier, pooling", "pooling, rectifier", "padding", "stride"],
)
def test_the_input_and_its_derivative_are_the_networks_own(network):
    seen, fed, derivative = see(**network)
    found = found_in(seen)
    assert found is not None
    assert found.name == "conv2"
    value = found.input.by_image(found.input.value)
    known = found.input.by_image(found.input.noise) < 1e-3  # no window reads the others
    assert known.double().mean() > 0.5
    torch.testing.assert_close(value[known], fed[known], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.input_gradient, derivative, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(
    "network", [{"pool": F.avg_pool2d}, {"after": torch.tanh}], ids=["average pooling", "no rectifier"]
)
def test_nothing_where_something_else_lies_below(network):
    assert found_in(see(**network)[0]) is None


def test_a_gradient_that_no_choices_make_gives_nothing():
    seen, _, _ = see()
    g = seen.gradients["conv2.weight"]
    g += 0.05 * g.std() * torch.randn(g.shape, dtype=g.dtype, generator=torch.Generator().manual_seed(0))
    assert found_in(seen) is None


def test_no_time_is_no_input():
    seen, _, _ = see()
    known = watch_backwards(seen, 1e-15)[-1]
    assert below_max_pooling(seen, known, budget=Budget(1e-9)) is None


def test_the_image_is_then_sought_from_there():
    seen, _, _ = see()
    equations = equations_of_one(seen, 1e-14)
    assert isinstance(equations, RecoveredInputEquations)
    assert equations.end.name == "conv2"
