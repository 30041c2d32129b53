import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.equations.binary_factor import BinaryFactor, PooledPatternOptions
from leakage_audit.equations.convolution_range import reads
from leakage_audit.equations.known_inputs import known_at_the_end
from leakage_audit.equations.network_recovery import NetworkRecoveryOptions, recover_network
from leakage_audit.equations.pooled_pattern import pooled_pattern
from leakage_audit.networks.dataflow import read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget


class Block(nn.Module):
    """A residual block behind which all positions are averaged; its inputs have fewer channels than positions."""

    def __init__(self, activation, normalise, pool):
        super().__init__()
        self.conv0, self.conv1, self.conv2 = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 12), (12, 20), (20, 24)))
        self.short = nn.Conv2d(12, 24, 1)
        self.norm = nn.BatchNorm2d(24) if normalise else nn.Identity()
        self.activation, self.pool, self.fc = activation, pool, nn.Linear(24, 5)

    def forward(self, x):
        x = self.activation(self.conv0(x))
        out = self.norm(self.conv2(self.activation(self.conv1(x)))) + self.short(x)
        self.last = self.activation(out)
        return self.fc(self.pool(self.last).flatten(1))


def see(activation=None, normalise=True, pool=None, size=4):
    torch.manual_seed(0)
    network = Block(activation or nn.ReLU(), normalise, pool or nn.AdaptiveAvgPool2d(1)).double().eval()
    image = draw(1, 3, size, size)
    seen = observe(network, image, torch.tensor([2]))
    network(seen.to_input(image))
    return seen, (network.last > 0).double()


def found_in(seen, **options):
    flow = read_dataflow(stateless(seen.network))
    start = known_at_the_end(seen, 1e-15)
    return list(pooled_pattern(seen, flow, start, options=PooledPatternOptions(**options)).values())


@pytest.mark.parametrize("normalise", [False, True], ids=["bias", "normalised"])
def test_the_pattern_is_the_networks_own(normalise):
    seen, on = see(normalise=normalise)
    (found,) = found_in(seen)
    torch.testing.assert_close(found, on)
    assert 0.2 < float(on.mean()) < 0.8


@pytest.mark.parametrize(
    "network",
    [{"activation": nn.LeakyReLU(0.2)}, {"activation": nn.Tanh()}, {"pool": nn.AdaptiveMaxPool2d(1)}],
    ids=["leaky", "tanh", "max pooling"],
)
def test_nothing_where_there_are_no_zeros_and_ones_or_no_average(network):
    assert found_in(see(**network)[0]) == []


def test_a_gradient_that_no_pattern_makes_gives_none():
    seen, _ = see()
    seen.gradients["conv2.weight"] += 0.1 * seen.gradients["conv2.weight"].std() * draw(24, 20, 3, 3)
    assert found_in(seen, rounds=2) == []


def test_with_it_a_network_opens_behind_the_pooling():
    seen, _ = see()
    options = NetworkRecoveryOptions(spare=100.0)  # no convolution that tells its inputs by itself
    layer, found = recover_network(seen, 1e-14, 2e-16, None, Budget(), 1.0, options)
    inputs = {}
    for name in ("conv1", "conv2"):
        seen.network.get_submodule(name).register_forward_pre_hook(lambda m, i, name=name: inputs.update({name: i[0]}))
    seen.network(seen.to_input(draw(1, 3, 4, 4)))
    whole = {one.name: one.input.by_image(one.input.value) for one in found if one.input.basis is None}
    assert layer == "fc"
    torch.testing.assert_close(whole["conv2"], inputs["conv2"].detach(), atol=1e-8, rtol=0)
    torch.testing.assert_close(whole["conv1"], inputs["conv1"].detach(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("channels", [20, 14], ids=["full rank", "fewer channels than positions"])
def test_a_binary_factor_is_found_and_wrong_ones_are_refused(channels):
    generator = torch.Generator().manual_seed(0)
    s = (torch.rand(30, 16, generator=generator, dtype=torch.float64) > 0.5).double()
    a = torch.randn(16, channels, generator=generator, dtype=torch.float64).clamp_min(0)
    read = reads((4, 4), (3, 3), (1, 1), (1, 1))
    shifted = torch.cat([a, torch.zeros(1, channels).double()])[read]
    problem = BinaryFactor(s @ shifted, read, s.sum(1), 16, PooledPatternOptions())
    torch.testing.assert_close(problem.solve(Budget()), s)
    wrong = s.clone()
    wrong[0, [int(s[0].argmax()), int(s[0].argmin())]] = torch.tensor([0.0, 1.0]).double()
    assert not problem.fit(s)[1].any()
    assert problem.fit(wrong)[1].tolist() == [True] + 29 * [False]


def test_wrong_rows_of_an_ill_conditioned_input_are_solved_for():
    """One position's channels are nearly another's, as of a smooth image: sweeps hardly tell which of them is on."""
    generator = torch.Generator().manual_seed(0)
    s = (torch.rand(30, 16, generator=generator, dtype=torch.float64) > 0.5).double()
    a = 1 + 1e-3 * torch.randn(16, 20, generator=generator, dtype=torch.float64)
    read = reads((4, 4), (3, 3), (1, 1), (1, 1))
    shifted = torch.cat([a, torch.zeros(1, 20).double()])[read]
    problem = BinaryFactor(s @ shifted, read, s.sum(1), 16, PooledPatternOptions(agrees=1e-6, soft=1e-9, ridge=1e-14))
    wrong = s.clone()
    for row in range(4):
        wrong[row] = wrong[row].roll(1)
    found, _, _, left = problem._mended(wrong, wrong, Budget())
    assert torch.equal(found, s)
    assert not left.any()
