"""Time the layer systems: python benchmarks/layer_systems.py.

Prints R-GAP on CNN3 V3 (a system of 7542 × 5400) with its peak memory, c(M) of CNN3 V1, and a step of the penalty form
(16) beside a straightforward dense one in float64, whose system is a matrix and whose square is taken by autograd.
"""

import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from leakage_audit import Observation, observe, security_metric
from leakage_audit.attacks import RGAP
from leakage_audit.attacks.corrections import Problem, Terms, penalty
from leakage_audit.data import synthetic
from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.layerwise.recursion import sweep
from leakage_audit.matching.subnetwork import Subnetwork
from leakage_audit.models import build
from leakage_audit.networks.chain import read_chain
from leakage_audit.runtime import Budget

LABEL = torch.tensor([4])
STEPS = 20


def seen_on(variant: str) -> Observation:
    """One drawn image's gradients on a variant."""
    torch.manual_seed(10)
    return observe(build(variant), synthetic.draw("house", [3])[0] / 255, 4, mean=0.5)


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def dense_penalty(tail: Subnetwork, shape: tuple[int, ...], u: Tensor, v: Tensor, x: Tensor) -> None:
    """Form (16) written down as it stands, at one layer."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=1e-3)
    for _ in range(STEPS):
        image = x.reshape(1, *shape)
        pairs = zip(tail.gradients(image), tail.targets, strict=True)
        value = sum(1 - F.cosine_similarity(g.flatten(), t.flatten(), dim=0) for g, t in pairs)
        value = value + image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()
        value = value + 0.05 * (u @ x - v).square().sum()
        (x.grad,) = torch.autograd.grad(value, x)
        adam.step()


def penalty_steps(variant: str) -> dict[str, tuple[float, float]]:
    """By layer, seconds a step of ours and of the dense one."""
    seen = seen_on(variant).to(torch.float64)
    chain, times = read_chain(seen.network, seen.input_shape), {}

    def solve(system: LayerSystem, i: int) -> Tensor:
        factor = Factor(system)
        start = factor.pseudo_inverse(system.v)
        u, shape, tail = torch.from_numpy(system.matrix()), system.layer.in_shape, Subnetwork(chain, i, seen, LABEL)
        problem = Problem(system, factor, tail, Terms(STEPS, 1.0, 1.0, 0.05), 1e-3, Budget())
        runs = lambda: penalty(problem, start), lambda: dense_penalty(tail, shape, u, system.v, start)
        times[system.layer.name] = seconds(runs[0]) / STEPS, seconds(runs[1]) / STEPS
        return start

    sweep(chain, seen, solve)
    return times


if __name__ == "__main__":
    print(f"R-GAP, CNN3 V3: {seconds(lambda: RGAP()(seen_on('cnn3_v3'))):.2f} s")
    print(f"  peak memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"c(M), CNN3 V1: {seconds(lambda: security_metric(seen_on('cnn3_v1'))):.2f} s")
    for name in ("cnn2_v1", "cnn2_v2", "cnn3_v1", "cnn3_v3"):
        for layer, (ours, dense) in penalty_steps(name).items():
            ratio = f"{dense / ours:.1f} times"
            print(f"penalty step, {name} {layer}: {1e3 * ours:.2f} ms, dense {1e3 * dense:.2f} ms, {ratio}")
