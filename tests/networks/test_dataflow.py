import torch
from cases import draw
from torch import nn

from leakage_audit.networks.dataflow import read_dataflow


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.offset = nn.Parameter(torch.ones(6))

    def forward(self, x, scale=None):
        h = self.act(self.one(x))
        y = self.two(h)
        y += h
        return self.act(y) * self.offset


def flow_of(network):
    return read_dataflow(network.double())


def test_forward_from_any_value_is_the_networks_own():
    flow = flow_of(Residual())
    x = draw(3, 6)
    values = flow.forward({flow.image: x})
    torch.testing.assert_close(values[flow.end], flow.network(x))
    h = values[flow.fed("two")]
    torch.testing.assert_close(flow.forward({flow.fed("two"): h})[flow.end], flow.network(x))
    assert torch.equal(h, flow.network.act(flow.network.one(x)))  # although what adds to y works in place


def test_pulled_back_derivatives_are_autograds():
    flow = flow_of(Residual())
    x = draw(3, 6).requires_grad_()
    values = flow.forward({flow.image: x})
    direction = draw(3, 6, seed=2)
    derivatives = {flow.end: direction}
    for node in reversed(flow.nodes):
        if node in derivatives and node.op.startswith("call"):
            for below, derivative in flow.pull_back(node, values, derivatives[node]).items():
                derivatives[below] = derivatives.get(below, 0) + derivative
    (expected,) = torch.autograd.grad(flow.network(x), x, direction)
    torch.testing.assert_close(derivatives[flow.image], expected)


def test_cuts():
    flow = flow_of(Residual())
    assert flow.is_cut(flow.fed("two"))  # the shortcut starts there, too
    assert not flow.is_cut(flow.call("two"))  # the shortcut leads around
    assert flow.is_cut(flow.end)


def test_what_cannot_be_followed():
    class Dynamic(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert read_dataflow(Dynamic()) is None
    twice = flow_of(nn.Sequential(*[nn.Linear(2, 2)] * 2))
    assert twice.call("0") is None
    assert twice.fed("0") is None
