import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, conv, draw, system_of
from torch import nn

LAYERS = {
    **{name: lambda name=name: conv(name) for name in CONVOLUTIONS},
    "average pooling": lambda: nn.AvgPool2d(2),
    "overlapping pooling": lambda: nn.AvgPool2d(3, 2, 1),
}
each = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def dense(system):
    """u by pushing unit vectors through conv2d and its autograd gradient."""
    layer, dz = system.layer, system.dz
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    columns = []
    for unit in torch.eye(system.n, dtype=torch.float64):
        w = layer.weight.detach().clone().double().requires_grad_()
        z = F.conv2d(unit.reshape(1, *layer.in_shape), w, None, *geometry)
        parts = [z.detach().flatten()]
        if layer.learned:
            parts.append(torch.autograd.grad(z, w, dz)[0].flatten())
        columns.append(torch.cat(parts))
    return torch.stack(columns, 1)


@each
def test_operator_and_matrix_are_those_of_conv2d(make):
    system, x = system_of(make())
    u = dense(system)
    assert u.shape == (system.equations, system.n)
    torch.testing.assert_close(torch.from_numpy(system.matrix()), u, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(system.apply(x), u @ x, rtol=1e-12, atol=1e-12)
    y = draw(system.equations, seed=3)
    torch.testing.assert_close(system.adjoint(y), u.T @ y, rtol=1e-12, atol=1e-12)


@each
def test_the_true_input_solves_it(make):
    system, x = system_of(make())
    torch.testing.assert_close(system.apply(x), system.v, rtol=1e-12, atol=1e-12)


@each
def test_adjoint(make):
    system, _ = system_of(make())
    a, b = draw(system.n, seed=4), draw(system.equations, seed=5)
    forward, backward = float(system.apply(a) @ b), float(a @ system.adjoint(b))
    assert abs(forward - backward) <= 1e-12 * float(a.norm() * b.norm()) * np.linalg.norm(system.matrix(), 2)


def test_a_gradient_that_was_not_shared_gives_no_equations():
    system, _ = system_of(conv("bias"))
    alone = type(system)(system.layer, system.dz[0], system.z, None)
    assert alone.equations == system.z.numel()
    assert alone.matrix().shape == (alone.equations, alone.n)
    torch.testing.assert_close(alone.v, system.v[: alone.equations])


def test_float32_stays_float32():
    system, x = system_of(conv("groups"))
    single = type(system)(system.layer, system.dz[0].float(), system.z.float(), system.gradient.float())
    assert single.apply(x.float()).dtype == single.adjoint(single.v).dtype == single.v.dtype == torch.float32
    torch.testing.assert_close(single.apply(x.float()).double(), system.apply(x), rtol=1e-4, atol=1e-4)
