import torch
from torch import nn

from leakage_audit.attacks.cosine_tv import CosineTV
from leakage_audit.attacks.joint import Joint
from leakage_audit.networks.double_backward import differentiable_twice
from leakage_audit.observation import observe


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(6 * 36, 4))


def test_the_same_function_with_a_second_derivative():
    x = torch.linspace(-4, 4, 50, dtype=torch.float64, requires_grad=True)
    hard = nn.Sequential(nn.Hardsigmoid())
    expected = hard(x).detach()
    found = differentiable_twice(hard)(x)
    torch.testing.assert_close(found.detach(), expected)
    (slope,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    assert torch.isfinite(torch.autograd.grad(slope.sum(), x)[0]).all()


def test_attacks_run_and_leave_the_network_alone():
    seen = observe(network(), torch.full((3, 8, 8), 0.4), 1, mean=0.5)
    for attack in (CosineTV(iterations=2), Joint(max_steps=2)):
        assert torch.isfinite(attack(seen).images).all()
    assert isinstance(seen.network[1], nn.Hardsigmoid)
