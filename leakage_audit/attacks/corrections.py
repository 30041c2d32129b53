"""The three ways in which Hybrid corrects a layer's solution `u⁺v`.

All share the objective's first two terms, with Table 2's weights; they differ in what becomes of the linear system:

    penalty        µ1 Σ_p (1 − cos) + µ2 TV + µ3 ‖u x − v‖²  over x                 (16)
    constrained    µ1 Σ_p (1 − cos) + µ2 TV                  over x_LS + null(u)    (11), by projected Adam
    trust_region   the same                                  the same               (11), by scipy's Newton-Krylov
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from leakage_audit.attacks.ending import EndingOptions, Settling
from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.matching.objective import mean_cosine_distance
from leakage_audit.matching.subnetwork import Subnetwork
from leakage_audit.matching.total_variation import total_variation
from leakage_audit.runtime import Budget

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Terms:
    """The objective at one layer (a row of Table 2).

    Attributes:
        iterations: Steps of the optimiser.
        mu1: Weight of the gradient matching.
        mu2: Weight of the total variation.
        mu3: Weight of the linear system.
    """

    iterations: int
    mu1: float
    mu2: float
    mu3: float


@dataclass(frozen=True)
class Problem:
    """One layer to be corrected: its system, the network above it, and the terms.

    Attributes:
        system: `u x = v`.
        factor: The system, factored.
        tail: The network from this layer on.
        terms: Weights and iterations.
        lr: Adam's step size.
        budget: Time limit and progress.
        largest_null_space: Unknowns up to which a basis of the null space is formed for scipy.
        kink: Rounding of the variation's kinks for Newton steps, in units of the layer's input.
        ending: When the objective has settled.
    """

    system: LayerSystem
    factor: Factor
    tail: Subnetwork
    terms: Terms
    lr: float
    budget: Budget
    largest_null_space: int = 2000
    kink: float = 1e-2
    ending: EndingOptions = field(default_factory=EndingOptions)

    def matching(self, x: Tensor, rounding: float = 0.0) -> Tensor:
        """`µ1 Σ_p (1 − cos(∂L/∂p(x), g_p)) + µ2 TV(x)` at x `(n,)`, the variation's kinks rounded off."""
        image = x.reshape(1, *self.system.layer.in_shape)
        gradients = self.tail.gradients(image)
        distance = len(gradients) * mean_cosine_distance(gradients, self.tail.targets)
        return self.terms.mu1 * distance + self.terms.mu2 * total_variation(image, rounding)

    def settling(self) -> Settling:
        """Asked at each of the iterations."""
        return Settling(self.terms.iterations, self.ending)

    def steps(self) -> Iterator[int]:
        """The iterations that the budget allows."""
        return self.budget.steps(self.terms.iterations, f"hybrid, {self.system.layer.name}")


Correct = Callable[[Problem, Tensor], tuple[Tensor, bool]]


def penalty(problem: Problem, x: Tensor) -> tuple[Tensor, bool]:
    """Minimise (16) by Adam from x `(n,)`; returns the best iterate, and whether the objective settled."""
    system, mu3 = problem.system, problem.terms.mu3
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=problem.lr)
    best, least, settling = x.detach().clone(), float("inf"), problem.settling()
    for _ in problem.steps():
        value = problem.matching(x)
        (slope,) = torch.autograd.grad(value, x)
        with torch.no_grad():
            rest = system.apply(x) - system.v
            total = value.item() + mu3 * rest.square().sum().item()
            settling(total)
            if total < least:
                best, least = x.detach().clone(), total
            x.grad = slope + 2 * mu3 * system.adjoint(rest)
        adam.step()
    return best, settling.settled


def constrained(problem: Problem, x: Tensor) -> tuple[Tensor, bool]:
    """Minimise the matching inside `x + null(u)` by Adam on t of `x + (I − u⁺u) t`; returns as `penalty`."""
    if problem.factor.rank == problem.system.n:
        return x, True
    t = torch.zeros_like(x).requires_grad_()
    adam = torch.optim.Adam([t], lr=problem.lr)
    best, least, settling = x, float("inf"), problem.settling()
    for _ in problem.steps():
        with torch.no_grad():
            here = x + problem.factor.project(t)
        value = problem.matching(here.requires_grad_())
        settling(value.item())
        if value.item() < least:
            best, least = here.detach(), value.item()
        (slope,) = torch.autograd.grad(value, here)
        t.grad = problem.factor.project(slope)
        adam.step()
    return best, settling.settled


def trust_region(problem: Problem, x: Tensor) -> tuple[Tensor, bool]:
    """Minimise the matching inside `x + null(u)` by scipy's trust-region Newton-Krylov, Hessian products by autograd.

    Raises:
        ValueError: If the layer is too large to form a basis of its null space.
    """
    system = problem.system
    if problem.factor.rank == system.n:
        return x, True
    if system.n > problem.largest_null_space:
        raise ValueError(
            f"{system.layer.name} has {system.n} unknowns; the trust-region preset forms a basis of the null space and"
            f" takes at most {problem.largest_null_space}: use the preset 'constrained'"
        )
    _, _, right = np.linalg.svd(system.matrix())
    basis = torch.from_numpy(right[problem.factor.rank :]).to(x)
    best = [(float("inf"), x)]

    def at(t: Vector) -> Tensor:
        return (x + basis.T @ torch.from_numpy(t).to(x)).requires_grad_()

    def value_and_slope(t: Vector) -> tuple[float, Vector]:
        here = at(t)
        value = problem.matching(here, problem.kink)
        (slope,) = torch.autograd.grad(value, here)
        if value.item() < best[0][0]:
            best[0] = value.item(), here.detach()
        return value.item(), (basis @ slope).double().numpy()

    def curvature(t: Vector, direction: Vector) -> Vector:
        here = at(t)
        (slope,) = torch.autograd.grad(problem.matching(here, problem.kink), here, create_graph=True)
        along = basis.T @ torch.from_numpy(direction).to(x)
        (product,) = torch.autograd.grad(slope @ along, here)
        return (basis @ product).double().numpy()

    steps = problem.steps()

    def stop(_: Vector) -> None:
        if next(steps, None) is None:
            raise StopIteration

    start = np.zeros(len(basis))
    done = False
    if next(steps, None) is not None:
        found = scipy.optimize.minimize(  # type: ignore[call-overload]  # scipy-stubs want the slope as a list's protocol
            value_and_slope, start, jac=True, hessp=curvature, method="trust-krylov", callback=stop,
            options={"maxiter": problem.terms.iterations},
        )  # fmt: skip
        done = bool(found.success) and not problem.budget.exhausted
    return best[0][1], done
