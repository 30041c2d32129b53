import pytest
import torch
import torch.nn.functional as F
from cases import NETWORKS, draw

from leakage_audit.layerwise.recursion import sweep
from leakage_audit.measures.probe_systems import systems_at
from leakage_audit.networks.chain import read_chain
from leakage_audit.observation import observe


@pytest.mark.parametrize("name", [name for name, case in NETWORKS.items() if case.full])
def test_the_systems_that_a_walk_meets(name):
    case = NETWORKS[name]
    network, x = case.network(), draw(1, *case.shape)
    chain = read_chain(network, case.shape)
    found = systems_at(chain, x, torch.tensor([1]), F.cross_entropy)
    inputs = [x]
    for layer in chain:
        inputs.append(layer.activation.forward(layer(inputs[-1])).detach())
    walked = sweep(chain, observe(network, x, 1), lambda system, i: inputs[i].flatten()).systems
    for one, two in zip(found, walked, strict=True):
        assert one.layer.name == two.layer.name
        torch.testing.assert_close(one.dz, two.dz, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(one.z, two.z, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["relu", "silu", "modules"])
def test_no_inverse_is_needed(name):
    case = NETWORKS[name]
    found = systems_at(read_chain(case.network(), case.shape), draw(1, *case.shape), torch.tensor([0]), F.cross_entropy)
    assert [system.layer.learned for system in found] == ([True] if name != "modules" else [True, False, True])
    assert all(torch.isfinite(torch.from_numpy(system.matrix())).all() for system in found)
