import pytest
import torch
from cases import FULL, NETWORKS, draw
from torch import nn

from leakage_audit.layerwise.recursion import check_invertible, sweep
from leakage_audit.networks.chain import UnreadableNetwork, read_chain
from leakage_audit.networks.layer_types import Convolution
from leakage_audit.observation import observe


def truth(chain, x):
    """The input of every layer."""
    inputs = []
    for layer in chain:
        inputs.append(x.flatten().detach())
        x = layer.activation.forward(layer(x))
    return inputs


def walk(case, seed=0):
    """Walk back with every convolution's input given by an oracle."""
    seen, x = case.observe(seed)
    chain = read_chain(seen.network, case.shape)
    inputs = truth(chain, x)
    return sweep(chain, seen, lambda system, i: inputs[i]), chain, inputs, x


WALKABLE = {name: case for name, case in NETWORKS.items() if case.invertible}


@pytest.mark.parametrize("case", WALKABLE.values(), ids=WALKABLE)
def test_every_system_holds_at_the_true_input(case):
    found, chain, inputs, x = walk(case)
    torch.testing.assert_close(found.x, x)
    places = [i for i, layer in enumerate(chain) if isinstance(layer, Convolution)]
    assert [system.layer for system in found.systems] == [chain[i] for i in places]
    for system, i in zip(found.systems, places, strict=True):
        rest = (system.apply(inputs[i]) - system.v).norm() / system.v.norm()
        assert rest < 1e-9


@pytest.mark.parametrize("case", WALKABLE.values(), ids=WALKABLE)
def test_derivatives_are_autograds(case):
    found, chain, _, x = walk(case)
    z, outputs = x, []
    for layer in chain:
        outputs.append(layer(z).requires_grad_())
        z = layer.activation.forward(outputs[-1])
    derivatives = torch.autograd.grad(torch.nn.functional.cross_entropy(z, torch.tensor([1])), outputs)
    expected = [dz for dz, layer in zip(derivatives, chain, strict=True) if isinstance(layer, Convolution)]
    for system, dz in zip(found.systems, expected, strict=True):
        torch.testing.assert_close(system.dz, dz, rtol=1e-7, atol=1e-9 * float(dz.abs().max()))


@pytest.mark.parametrize(("name", "reason"), [("relu", "relu: all negative"), ("silu", "silu: it falls before")])
def test_activations_without_an_inverse_are_refused(name, reason):
    case = NETWORKS[name]
    with pytest.raises(UnreadableNetwork, match=f"0: the sweep cannot go back through {reason}"):
        check_invertible(read_chain(case.network(), case.shape))


def test_the_last_activation_needs_no_inverse():
    check_invertible(read_chain(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()), (3, 2, 2)))


def test_a_frozen_linear_layer_below_the_last():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    network[1].weight.requires_grad_(False)
    seen = observe(network, draw(1, 3, 2, 2), 1)
    with pytest.raises(ValueError, match=r"gradient of 1\.weight was not shared"):
        sweep(read_chain(network, (3, 2, 2)), seen, lambda system, i: system.v)


def test_the_full_cases_are_still_in_the_table():
    assert len(FULL) >= 5
