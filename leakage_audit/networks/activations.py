"""σ, σ′ and σ⁻¹ of each activation the sweep can meet: one table.

The recursion (docs/method.md, section 2.4) goes from x⁽ⁱ⁺¹⁾ = σ(z⁽ⁱ⁾) back to z⁽ⁱ⁾, so it needs σ⁻¹. An activation
without one is in the table too, with the reason, since the measures that need only shapes still apply to its network.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """An elementwise function σ.

    Attributes:
        name: Its name in `torch.nn.functional`, with its parameters.
        forward: σ.
        derivative: σ′ as a function of the pre-activation z.
        invert: σ⁻¹ on the open interval `bounds`; None if there is none.
        bounds: Infimum and supremum of σ.
        refusal: Why there is no inverse; empty if there is one.
        smooth: Whether σ′ is continuous.
        edge: How far inside σ's range values from outside it are put (the paper's script: tanh at ±0.9999).
    """

    name: str
    forward: Map
    derivative: Map
    invert: Map | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    refusal: str = ""
    smooth: bool = True
    edge: float = 1e-4

    def inverse(self, y: Tensor) -> Tensor:
        """σ⁻¹(y), with what lies outside σ's open range first moved a little way inside.

        Rounding takes values to the edge, bad guesses beyond it. Where they are put matters to the layers below: at the
        last number before the edge tanh⁻¹ is 18, and a guess of 18 outshouts all the others.

        Raises:
            ValueError: If σ has no inverse; the message says why.
        """
        if self.invert is None:
            raise ValueError(f"{self.name} has no inverse: {self.refusal}")
        low, high = self.bounds
        least = low + self.edge if math.isfinite(low) else low
        inside = y.clamp(least, high - self.edge if math.isfinite(high) else high)
        y = torch.where((y > low) & (y < high), y, inside)
        return self.invert(y)


def _softplus(beta: float, threshold: float) -> Activation:
    def invert(y: Tensor) -> Tensor:
        # Beyond `threshold` torch uses the identity; below, log(e^{βy} - 1)/β without overflow.
        return torch.where(y * beta > threshold, y, y + torch.log(-torch.expm1(-beta * y)) / beta)

    def derivative(z: Tensor) -> Tensor:
        return torch.where(z * beta > threshold, torch.ones_like(z), torch.sigmoid(beta * z))

    name = f"softplus(beta={beta:g})"
    return Activation(name, lambda z: F.softplus(z, beta, threshold), derivative, invert, (0.0, math.inf))


def _leaky_relu(negative_slope: float) -> Activation:
    name = f"leaky_relu({negative_slope:g})"

    def slope(z: Tensor) -> Tensor:
        return torch.where(z > 0, torch.ones_like(z), torch.full_like(z, negative_slope))

    def forward(z: Tensor) -> Tensor:
        return F.leaky_relu(z, negative_slope)

    if negative_slope <= 0:
        return Activation(name, forward, slope, refusal="its slope below zero is not positive", smooth=False)
    return Activation(name, forward, slope, lambda y: torch.where(y > 0, y, y / negative_slope), smooth=False)


def _exponential(name: str, scale: float, alpha: float, tau: float) -> Activation:
    """`scale · z` above zero, `scale · alpha · (e^{z/tau} - 1)` below: ELU, CELU and SELU."""

    def forward(z: Tensor) -> Tensor:
        return scale * torch.where(z > 0, z, alpha * torch.expm1(z.clamp(max=0) / tau))

    def derivative(z: Tensor) -> Tensor:
        return scale * torch.where(z > 0, torch.ones_like(z), alpha / tau * torch.exp(z.clamp(max=0) / tau))

    def invert(y: Tensor) -> Tensor:
        y = y / scale
        return torch.where(y > 0, y, tau * torch.log1p(y.clamp(max=0) / alpha))

    return Activation(name, forward, derivative, invert, (-scale * alpha, math.inf), smooth=alpha == tau)


def _refused(name: str, function: Map, refusal: str, smooth: bool = True) -> Activation:
    def derivative(z: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(function))(z.reshape(-1)).reshape(z.shape)

    return Activation(name, function, derivative, refusal=refusal, smooth=smooth)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
_FLAT = "all negative inputs give zero, so what they were is lost"
_TURNS = "it falls before it rises, so two inputs give the same value"
_CUT = "beyond its corners it is flat, so what lay there is lost"

IDENTITY = Activation("identity", lambda z: z, torch.ones_like, lambda y: y)

# Function name: (module, its parameters with their defaults in the function's order, builder).
_TABLE: dict[str, tuple[type[nn.Module], Mapping[str, float], Callable[..., Activation]]] = {
    "identity": (nn.Identity, {}, lambda: IDENTITY),
    "tanh": (
        nn.Tanh,
        {},
        lambda: Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, torch.atanh, (-1.0, 1.0)),
    ),
    "sigmoid": (
        nn.Sigmoid,
        {},
        lambda: Activation(
            "sigmoid", torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), torch.logit, (0.0, 1.0)
        ),
    ),
    "logsigmoid": (
        nn.LogSigmoid,
        {},
        lambda: Activation(
            "logsigmoid",
            F.logsigmoid,
            lambda z: torch.sigmoid(-z),
            lambda y: y - torch.log(-torch.expm1(y)),
            (-math.inf, 0.0),
        ),
    ),
    "softsign": (
        nn.Softsign,
        {},
        lambda: Activation(
            "softsign", F.softsign, lambda z: (1 + z.abs()) ** -2, lambda y: y / (1 - y.abs()), (-1.0, 1.0)
        ),
    ),
    "softplus": (nn.Softplus, {"beta": 1.0, "threshold": 20.0}, _softplus),
    "leaky_relu": (nn.LeakyReLU, {"negative_slope": 0.01}, _leaky_relu),
    "elu": (nn.ELU, {"alpha": 1.0}, lambda alpha: _exponential(f"elu({alpha:g})", 1.0, alpha, 1.0)),
    "celu": (nn.CELU, {"alpha": 1.0}, lambda alpha: _exponential(f"celu({alpha:g})", 1.0, alpha, alpha)),
    "selu": (nn.SELU, {}, lambda: _exponential("selu", _SELU_SCALE, _SELU_ALPHA, 1.0)),
    "relu": (nn.ReLU, {}, lambda: _refused("relu", F.relu, _FLAT, smooth=False)),
    "relu6": (nn.ReLU6, {}, lambda: _refused("relu6", F.relu6, _FLAT, smooth=False)),
    "hardtanh": (
        nn.Hardtanh,
        {"min_val": -1.0, "max_val": 1.0},
        lambda low, high: _refused("hardtanh", lambda z: F.hardtanh(z, low, high), _CUT, smooth=False),
    ),
    "hardsigmoid": (nn.Hardsigmoid, {}, lambda: _refused("hardsigmoid", F.hardsigmoid, _CUT, smooth=False)),
    "hardswish": (nn.Hardswish, {}, lambda: _refused("hardswish", F.hardswish, _FLAT, smooth=False)),
    "silu": (nn.SiLU, {}, lambda: _refused("silu", F.silu, _TURNS)),
    "gelu": (nn.GELU, {}, lambda: _refused("gelu", F.gelu, _TURNS)),
    "mish": (nn.Mish, {}, lambda: _refused("mish", F.mish, _TURNS)),
}


def from_module(module: nn.Module) -> Activation | None:
    """The activation that a module computes, or None if it is not one of the table."""
    for kind, defaults, make in _TABLE.values():
        if type(module) is kind:
            if getattr(module, "approximate", "none") != "none":
                return None
            return make(*(float(getattr(module, parameter)) for parameter in defaults))
    return None


def from_function(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Activation | None:
    """The activation that a function or tensor method computes, or None if it is not one of the table.

    Args:
        name: The function's name, `tanh` or `leaky_relu_`.
        arguments: Its positional arguments after the input.
        keywords: Its keyword arguments.
    """
    if name.rstrip("_") not in _TABLE:
        return None
    _, defaults, make = _TABLE[name.rstrip("_")]
    if keywords.get("approximate", "none") != "none":
        return None
    given = dict(zip(defaults, arguments, strict=False))
    return make(*(float(given.get(key, keywords.get(key, default))) for key, default in defaults.items()))
