import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit import observe, score
from leakage_audit.attacks import RGAP, Hybrid, corrections
from leakage_audit.attacks.corrections import Problem, Terms
from leakage_audit.attacks.hybrid import TABLE_2
from leakage_audit.data import synthetic
from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.recursion import sweep
from leakage_audit.matching.subnetwork import Subnetwork
from leakage_audit.networks.chain import read_chain
from leakage_audit.runtime import Budget, OutOfTime

EXACT_SET = 1e-10  # largest ‖u x − v‖/‖v‖ on the solution set


def seen_and_truth(stride=2, size=12):
    """A small network whose first layer is deficient at stride 2 and determined at stride 1."""
    torch.manual_seed(10)
    side, filters = (size - 4) // stride + 1, 3 if stride > 1 else 6
    network = nn.Sequential(
        nn.Conv2d(3, filters, 4, stride, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(filters * side**2, 5)
    )
    image = synthetic.draw("balloon", [3], size=size).double() / 255
    return observe(network.double(), image, 2, mean=0.5), image


def problem_of(seen, iterations=5, mu3=0.05):
    """The first convolution's problem, at the input that R-GAP starts from."""
    chain = read_chain(seen.network, seen.input_shape)
    found = []

    def solve(system, i):
        factor = Factor(system)
        tail = Subnetwork(chain, i, seen, torch.tensor([2]))
        found.append(Problem(system, factor, tail, Terms(iterations, 1.0, 1.0, mu3), 1e-3, Budget()))
        return factor.pseudo_inverse(system.v)

    sweep(chain, seen, solve)
    return found[-1]


def watched(monkeypatch):
    """Every input at which a correction asks for the matching."""
    asked, matching = [], Problem.matching

    def watch(self, x, *rest):
        asked.append(x.detach().clone())
        return matching(self, x, *rest)

    monkeypatch.setattr(Problem, "matching", watch)
    return asked


def test_penalty_takes_the_steps_of_a_dense_autograd_twin():
    seen, _ = seen_and_truth()
    problem = problem_of(seen)
    start = problem.factor.pseudo_inverse(problem.system.v)
    u = torch.from_numpy(problem.system.matrix())
    x = start.clone().requires_grad_()
    adam, tried = torch.optim.Adam([x], lr=1e-3), []
    for _ in range(5):
        image = x.reshape(1, 3, 12, 12)
        loss = F.cross_entropy(seen.network(image), torch.tensor([2]))
        gradients = torch.autograd.grad(loss, list(seen.parameters.values()), create_graph=True)
        pairs = zip(gradients, seen.gradients.values(), strict=True)
        apart = sum(1 - F.cosine_similarity(g.flatten(), t.flatten(), dim=0) for g, t in pairs)
        across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
        value = apart + across.abs().mean() + down.abs().mean() + 0.05 * (u @ x - problem.system.v).square().sum()
        tried.append((value.item(), x.detach().clone()))
        (x.grad,) = torch.autograd.grad(value, x)
        adam.step()
    expected = min(tried, key=lambda pair: pair[0])[1]
    found, settled = corrections.penalty(problem, start)
    assert torch.allclose(found, expected, atol=1e-9)
    assert not settled  # five steps say nothing


@pytest.mark.parametrize("correct", [corrections.constrained, corrections.trust_region])
def test_the_constrained_forms_stay_on_the_solution_set_throughout(correct, monkeypatch):
    problem = problem_of(seen_and_truth()[0], iterations=20)
    start = problem.factor.pseudo_inverse(problem.system.v)
    asked = watched(monkeypatch)
    result, _ = correct(problem, start)
    assert len(asked) > 10
    off = [(problem.system.apply(x) - problem.system.v).norm() / problem.system.v.norm() for x in [*asked, result]]
    assert max(off) <= EXACT_SET
    assert problem.matching(result).item() < problem.matching(start).item()


@pytest.mark.parametrize("preset", ["constrained", "trust_region"])
def test_where_the_system_determines_the_input_there_is_nothing_to_correct(preset):
    seen, image = seen_and_truth(stride=1)
    guess = Hybrid(preset)(seen)
    assert torch.equal(guess.images, RGAP()(seen).images)
    assert score(guess.images, image).psnr[0] > 200


@pytest.mark.parametrize("preset", ["constrained", "trust_region"])
def test_the_constrained_forms_beat_the_pseudo_inverse(preset):
    seen, image = seen_and_truth()
    before = score(RGAP()(seen).images, image).psnr[0]
    guess = Hybrid(preset, scale=0.006, lr=2e-2)(seen)
    assert score(guess.images, image).psnr[0] > before + 2
    assert guess.converged
    assert (guess.details["labels"].tolist(), guess.details["labels_inferred"]) == ([2], True)


def test_the_weights_are_the_papers_table():
    rows = [(row.iterations, row.mu1, row.mu2, row.mu3) for row in TABLE_2]
    assert rows == [(10000, 1.0, 1.0, 0.05), (8000, 1.0, 1.0, 0.1), (1000, 10.0, 0.1, 1.0)]


def test_each_layer_gets_its_row(monkeypatch):
    torch.manual_seed(0)
    layers = [m for _ in range(4) for m in (nn.Conv2d(3, 3, 3, bias=False), nn.Tanh())]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    asked = []
    monkeypatch.setitem(
        __import__("leakage_audit.attacks.hybrid", fromlist=["PRESETS"]).PRESETS,
        "penalty",
        lambda problem, x: asked.append((problem.system.layer.name, problem.terms)) or (x, True),
    )
    Hybrid(scale=0.01)(observe(network, torch.rand(3, 12, 12), 1))
    iterations = {name: terms.iterations for name, terms in asked}
    assert iterations == {"0": 100, "2": 80, "4": 10, "6": 10}


def test_out_of_time_it_returns_its_best_and_says_so():
    class Hasty(Budget):
        """Time for the layers' systems, and for no step of descent."""

        def steps(self, total, what):
            self.affords(math.inf)
            return iter(())

    seen, image = seen_and_truth()
    guess = Hybrid()(seen, Hasty(seconds=600.0))
    assert guess.ended.startswith("out of time")
    assert np.isfinite(score(guess.images, image).psnr[0])


def test_without_time_for_the_systems_there_is_no_guess():
    with pytest.raises(OutOfTime):
        Hybrid()(seen_and_truth()[0], Budget(seconds=1e-9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "soft"}, "preset must be one of penalty"),
        ({"scale": 0}, "must be positive"),
        ({"lr": -1}, "must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Hybrid(**settings)


def test_trust_region_refuses_a_layer_that_is_too_large():
    with pytest.raises(ValueError, match=r"432 unknowns.*use the preset 'constrained'"):
        Hybrid("trust_region", largest_null_space=100)(seen_and_truth()[0])
