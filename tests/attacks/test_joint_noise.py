"""Joint against a gradient with noise, as who knows its size and who does not."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from leakage_audit import models, observe, score
from leakage_audit.attacks import Joint, joint_solver
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.data import Synthetic
from leakage_audit.defences import Composition, GaussianNoise, PercentileFilter, Prune, Quantize, Sign
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.interval_equations import likely_labels
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.layerwise.noisy_last_layer import fit_last_layer
from leakage_audit.measures.noise import effective_metric
from leakage_audit.measures.noisy_limit import noisy_limit
from leakage_audit.solvers.options import PropagationOptions, SolverOptions

SIZE = 12


def seen_of(name="cnn3_v1", index=3):
    torch.manual_seed(10)
    image, label, _ = Synthetic(image_size=SIZE).image_at(index)
    return observe(models.build(name, image_size=SIZE), image, label, mean=0.5), image, torch.tensor([label])


def noisy(seen, level, draw=0):
    size = float(torch.cat([g.flatten() for g in seen.gradients.values()]).square().mean().sqrt())
    return Composition([GaussianNoise(level * size)]).share(seen.gradients, draw)


def test_limit_attack_and_c_fall_together_and_to_know_is_no_worse():
    seen, image, label = seen_of()
    levels, limits, knows, does_not, c = [1e-3, 1e-2, 0.1, 0.5, 2.0], [], [], [], []
    for level in levels:
        shared = noisy(seen, level)
        known = shared.seen_by(seen, knows=True)
        limits.append(noisy_limit(known, image[None], label).psnr[0])
        knows.append(score(Joint()(known).images, image).psnr[0])
        does_not.append(score(Joint()(shared.seen_by(seen, knows=False)).images, image).psnr[0])
        c.append(effective_metric(seen, [level])[0].c)
    for other in (limits, knows, c):
        assert spearmanr([-level for level in levels], other).statistic >= 0.9
    assert sum(knows) >= sum(does_not)
    assert all(a >= b - 0.5 for a, b in zip(knows, does_not, strict=True))
    # One draw against the mean, and a limit that settles to a grey level.
    assert all(attack < limit + 2.5 for attack, limit in zip(knows, limits, strict=True))


@pytest.mark.parametrize("mechanism", [Prune(0.2), Quantize(3)])
def test_masks_and_steps_are_used(mechanism):
    seen, image, _ = seen_of()
    shared = Composition([mechanism]).share(seen.gradients)
    knows = score(Joint()(shared.seen_by(seen, knows=True)).images, image).psnr[0]
    does_not = score(Joint()(shared.seen_by(seen, knows=False)).images, image).psnr[0]
    assert knows > does_not + 2


@pytest.mark.parametrize("level", [1e-2, 0.1])
def test_the_last_layer_is_fitted_to_its_noise(level):
    seen, _, _ = seen_of()
    exact = fit_last_layer(noisy(seen, 1e-9).seen_by(seen, knows=True).to(torch.float64))
    found = fit_last_layer(noisy(seen, level).seen_by(seen, knows=True).to(torch.float64))
    draws = [fit_last_layer(noisy(seen, level, d).seen_by(seen, knows=True).to(torch.float64)) for d in range(12)]
    off = torch.stack([(one.product - exact.product) / one.std for one in draws])
    assert off.square().mean() == pytest.approx(1, abs=0.25)
    naive = noisy(seen, level).gradients["fc.bias"].double()
    truth = exact.direction
    assert found.direction @ truth > naive @ truth / naive.norm() - 1e-6
    assert exact.straight
    assert found.straight == (level < 0.05)


def test_at_the_truth_residuals_are_as_large_as_the_noise():
    """The attacker's model of a noisy gradient, image by image: nothing that noise hides is taken for known."""
    seen, image, _ = seen_of()
    for level in (1e-3, 0.1, 1.0):
        squares = []
        for draw in range(4):
            known = noisy(seen, level, draw).seen_by(seen, knows=True).to(torch.float64)
            equations = AutogradEquations(known, 1e-7)
            squares.append((equations.residual(image[None].double()) / equations.noise).square().mean())
        assert sum(squares) / 4 == pytest.approx(1, abs=0.2)


def test_entries_that_were_left_out_are_filled_in():
    """A matrix of rank one is determined by far fewer entries than it has."""
    seen, _, _ = seen_of()
    full = fit_last_layer(noisy(seen, 1e-9).seen_by(seen, knows=True).to(torch.float64))
    shared = Composition([Prune(0.5)]).share(seen.gradients)
    found = fit_last_layer(shared.seen_by(seen, knows=True).to(torch.float64))
    sure = found.std < 1e-5
    assert sure.float().mean() > 0.8
    assert torch.allclose(found.product[sure], full.product[sure], atol=1e-4)


def test_a_solve_that_ends_far_away_begins_again_where_the_blind_attack_ends(monkeypatch):
    """Who knows the noise can tell that his solution does not explain the gradient, and where another one does."""
    seen, image, _ = seen_of()
    known = noisy(seen, 0.01).seen_by(seen, knows=True)
    expected = score(Joint()(known).images, image).psnr[0]
    real, calls = joint_solver.gauss_newton_with_kinks, []

    def astray(equations, *args):
        found = real(equations, *args)
        calls.append(equations.calibrated)
        if len(calls) > 1:
            return found
        black = torch.zeros_like(found.image)
        return replace(found, image=black, r=equations.evaluate(black))

    monkeypatch.setattr(joint_solver, "gauss_newton_with_kinks", astray)
    assert score(Joint()(known).images, image).psnr[0] > expected - 5  # black has no more than a third of it
    assert calls == [True, False, True]


@pytest.mark.parametrize("brightness", [0.2, 0.8])
def test_a_brightness_that_noise_hides_is_no_longer_pulled_to_grey(brightness):
    """A prior that is sure of grey won against noise as large as the gradient, and to know it was a loss."""
    torch.manual_seed(10)
    image, label, _ = Synthetic(image_size=SIZE).image_at(3)
    image = brightness + 0.4 * (image - image.mean())
    seen = observe(models.build("cnn3_v1", image_size=SIZE), image, label, mean=0.5)
    shared = noisy(seen, 1.0)
    found = Joint()(shared.seen_by(seen, knows=True)).images
    without = Joint()(shared.seen_by(seen, knows=False)).images
    assert float(found.mean()) == pytest.approx(brightness, abs=0.05)
    assert score(found, image).psnr[0] > score(without, image).psnr[0]


FEW = JointOptions(solver=SolverOptions(propagation=PropagationOptions(steps=8)))  # of 25, for the time
INTERVALS = {"signs": Sign(), "one-bit": Quantize(1), "a-tenth": Prune(0.1), "cut-off": PercentileFilter(10, 1e-3)}


@pytest.mark.parametrize("mechanism", INTERVALS.values(), ids=INTERVALS)
def test_intervals_tell_more_than_noise_of_their_size(mechanism):
    """And the image that they lead to meets them."""
    gains = []
    for index in (5,):
        seen, image, _ = seen_of(index=index)
        known = Composition([mechanism]).share(seen.gradients).seen_by(seen, knows=True)
        found = Joint(options=FEW)(known)
        as_noise = Joint(options=FEW)(replace(known, intervals={}))
        gains.append(score(found.images, image).psnr[0] - score(as_noise.images, image).psnr[0])
        again = observe(seen.network, found.images[0], int(labels_for(known)[0]), mean=0.5).gradients
        outside = [
            ((i.lower - again[k]).clamp_min(0) + (again[k] - i.upper).clamp_min(0)).norm() / known.gradients[k].norm()
            for k, i in known.intervals.items()
        ]
        assert max(outside) < 0.1
    assert sum(gains) > 0


def test_where_a_defence_hides_the_label_two_are_tried():
    seen, _, label = seen_of()
    known = Composition([Sign()]).share(seen.gradients).seen_by(seen, knows=True)
    assert [int(one) for one in likely_labels(known)] == [int(label)]
    hidden = {"fc.bias": torch.zeros_like(seen.gradients["fc.bias"])}
    pruned = replace(
        known, gradients={**known.gradients, **hidden}, intervals={}, noise={"fc.bias": 1 + hidden["fc.bias"]}
    )
    assert len(likely_labels(pruned)) == 2
    assert len(likely_labels(replace(pruned, labels=label))) == 1
