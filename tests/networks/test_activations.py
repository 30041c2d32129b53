import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.networks import activations
from leakage_audit.networks.activations import _TABLE, IDENTITY, from_function, from_module

MODULES = [
    nn.Identity(), nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid(), nn.Softsign(), nn.Softplus(), nn.Softplus(2.5, 10),
    nn.LeakyReLU(), nn.LeakyReLU(0.3), nn.ELU(), nn.ELU(0.5), nn.CELU(), nn.CELU(2.0), nn.SELU(), nn.ReLU(), nn.ReLU6(),
    nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Mish(),
]  # fmt: skip
each = pytest.mark.parametrize("module", MODULES, ids=str)
INVERTIBLE = [m for m in MODULES if from_module(m).invert is not None]

# Both signs, small and large, and no kink among them.
Z = torch.cat([torch.linspace(-6, 6, 48, dtype=torch.float64), torch.tensor([-1e-7, 1e-7, 12.5], dtype=torch.float64)])


def test_the_cases_cover_the_table():
    assert {type(m) for m in MODULES} == {kind for kind, *_ in _TABLE.values()}


@each
def test_forward_is_the_modules(module):
    torch.testing.assert_close(from_module(module).forward(Z), module(Z), rtol=1e-12, atol=1e-15)


@each
def test_derivative_is_autograds(module):
    z = Z.clone().requires_grad_()
    expected = torch.autograd.grad(module(z).sum(), z)[0]
    torch.testing.assert_close(from_module(module).derivative(Z), expected, rtol=1e-10, atol=1e-12)


@each
def test_derivative_keeps_shape_and_type(module):
    z = Z.float().reshape(3, -1)
    derivative = from_module(module).derivative(z)
    assert (derivative.shape, derivative.dtype) == (z.shape, z.dtype)


@pytest.mark.parametrize("module", INVERTIBLE, ids=str)
def test_inverse_undoes_forward(module):
    activation = from_module(module)
    # What rounding σ(z) costs in z grows as 1/σ'(z); no inverse can do better.
    y = activation.forward(Z)
    lost = (torch.finfo(torch.float64).eps * y.abs().clamp(min=1) / activation.derivative(Z)).clamp(min=1e-15)
    assert ((activation.inverse(y) - Z).abs() <= 8 * lost + 1e-14 * Z.abs()).all()


@pytest.mark.parametrize("module", INVERTIBLE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_out_of_range_give_finite_inverses(module, dtype):
    activation = from_module(module)
    low, high = activation.bounds
    beyond = [bound + step for bound in (low, high) for step in (-1.0, 0.0, 1.0) if math.isfinite(bound)]
    if beyond:
        assert torch.isfinite(activation.inverse(torch.tensor(beyond, dtype=dtype))).all()


@pytest.mark.parametrize("module", [m for m in MODULES if m not in INVERTIBLE], ids=str)
def test_without_an_inverse_there_is_a_reason(module):
    activation = from_module(module)
    assert activation.refusal
    with pytest.raises(ValueError, match=activation.refusal):
        activation.inverse(Z)


def test_a_slope_that_is_not_positive_has_no_inverse():
    assert from_module(nn.LeakyReLU(0.0)).refusal
    assert from_module(nn.LeakyReLU(-0.1)).refusal


@pytest.mark.parametrize("name", [name for name in _TABLE if name != "identity"])
def test_functions_are_the_table_too(name):
    function = getattr(F, name, None) or getattr(torch, name)
    torch.testing.assert_close(from_function(name, (), {}).forward(Z), function(Z), rtol=1e-12, atol=1e-15)


def test_arguments_of_functions():
    for found in (from_function("leaky_relu_", (0.3,), {}), from_function("leaky_relu", (), {"negative_slope": 0.3})):
        torch.testing.assert_close(found.forward(Z), F.leaky_relu(Z, 0.3))
    torch.testing.assert_close(from_function("softplus", (2.0, 5.0), {}).forward(Z), F.softplus(Z, 2.0, 5.0))
    torch.testing.assert_close(from_function("elu", (), {"alpha": 0.5}).forward(Z), F.elu(Z, 0.5))


@pytest.mark.parametrize(
    "module",
    [nn.Hardtanh(-2, 3), nn.GELU(approximate="tanh"), nn.Threshold(0.1, 0), nn.PReLU(), nn.Softmax(1)],
    ids=str,
)
def test_what_is_not_in_the_table_is_not_guessed(module):
    found = from_module(module)
    assert found is None or torch.allclose(found.forward(Z), module(Z))


def test_functions_with_arguments_out_of_the_table_are_not_guessed():
    for name, arguments, keywords in [
        ("gelu", (), {"approximate": "tanh"}),
        ("hardtanh", (-2.0, 3.0), {}),
        ("hardtanh", (), {"min_val": -2.0}),
    ]:
        found = from_function(name, arguments, keywords)
        assert found is None or torch.allclose(found.forward(Z), getattr(F, name)(Z, *arguments, **keywords))
    assert from_function("gather", (), {}) is None


def test_identity():
    assert from_module(nn.Identity()) is IDENTITY
    assert activations.IDENTITY.inverse(Z) is not None
