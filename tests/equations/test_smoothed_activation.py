import numpy as np
import pytest
import torch
from cases import draw

from leakage_audit.equations.smoothed_activation import gaussian_smoothed
from leakage_audit.networks.activations import from_function

Z = draw(40)
SPREAD = draw(40, seed=2).abs() + 0.05


def average(function, z, spread):
    """By quadrature, on a grid fine enough for kinks."""
    grid = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / np.sqrt(2 * np.pi)
    return torch.stack(
        [torch.trapezoid(function(a + s * grid) * density, grid) for a, s in zip(z, spread, strict=True)]
    )


@pytest.mark.parametrize("activation", [from_function("relu", (), {}), from_function("leaky_relu", (0.2,), {})])
def test_is_the_average(activation):
    soft = gaussian_smoothed(activation, SPREAD)
    torch.testing.assert_close(soft.forward(Z), average(activation.forward, Z, SPREAD), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(soft.derivative(Z), average(activation.derivative, Z, SPREAD), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6"])
def test_its_derivative_is_its_derivative(name):
    soft = gaussian_smoothed(from_function(name, (), {}), SPREAD)
    slope = torch.func.vmap(torch.func.grad(lambda z, s: gaussian_smoothed(from_function(name, (), {}), s).forward(z)))(
        Z, SPREAD
    )
    torch.testing.assert_close(soft.derivative(Z), slope)


def test_without_spread_it_is_the_activation():
    relu = from_function("relu", (), {})
    torch.testing.assert_close(gaussian_smoothed(relu, torch.zeros(40).double()).forward(Z), relu.forward(Z))


@pytest.mark.parametrize("name", ["tanh", "hardsigmoid", "elu"])
def test_no_kink_at_zero_no_change(name):
    activation = from_function(name, (), {})
    assert gaussian_smoothed(activation, SPREAD) is activation
