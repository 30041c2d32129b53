import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import truncnorm
from torch import nn

from leakage_audit.attacks import Joint
from leakage_audit.equations.pooled_image import PooledImageOptions, image_below_max_pooling, truncated_site
from leakage_audit.equations.watched_recovery import watch_backwards
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.solvers.gauss_newton import gauss_newton


class Pooled(nn.Module):
    """One convolution whose maxima feed a hidden fully connected layer."""

    def __init__(self, channels, after=F.relu, pool=F.max_pool2d, padding=0):
        super().__init__()
        self.conv, self.after, self.pool = nn.Conv2d(3, channels, 3, padding=padding), after, pool
        size = ((12 + 2 * padding - 2) // 2) ** 2 * channels
        self.fc1, self.fc2 = nn.Linear(size, 30), nn.Linear(30, 5)

    def forward(self, x):
        return self.fc2(self.fc1(self.pool(self.after(self.conv(x)), 2).flatten(1)).relu())


def see(channels=6, mean=0.5, std=1.0, **network):
    torch.manual_seed(0)
    model = Pooled(channels, **network).double()
    image = F.interpolate(torch.rand(1, 3, 5, 5, dtype=torch.float64), (12, 12), mode="bicubic").clamp(0, 1)
    return observe(model, image, torch.tensor([2]), mean=mean, std=std), image


def known_in(seen):
    return next(layer for layer in watch_backwards(seen, 1e-15) if layer.name == "fc1")


def psnr(found, image):
    return -10 * math.log10(float((found - image).square().mean()))


@pytest.mark.parametrize("bound", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("site", [(0.0, 0.0), (0.7, -0.3)])
def test_a_site_turns_the_cavity_into_the_truncated_one(bound, site):
    cavity, centre = 1 / 0.8**2, 0.4
    sure, towards = (torch.tensor([value], dtype=torch.float64) for value in site)
    variance = 1 / (cavity + sure)
    mean = variance * (cavity * centre + towards)
    new = truncated_site(mean, variance, sure, towards, torch.tensor([bound], dtype=torch.float64), 1e-9)
    truth = truncnorm(-math.inf, (bound - centre) / 0.8, centre, 0.8)
    assert 1 / (cavity + float(new[0])) == pytest.approx(truth.var(), rel=1e-9)
    assert (cavity * centre + float(new[1])) / (cavity + float(new[0])) == pytest.approx(truth.mean(), rel=1e-9)


def test_where_there_is_no_bound_there_is_no_site():
    one = torch.ones(1, dtype=torch.float64)
    new = truncated_site(0 * one, one, 0 * one, 0 * one, torch.inf * one, 1e-9)
    assert not new[0].any()
    assert not new[1].any()


@pytest.mark.parametrize(
    "network",
    [{}, {"padding": 1}, {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}],
    ids=["plain", "padding", "normalised images"],
)
def test_is_near_the_image_where_the_maxima_tell_it(network):
    seen, image = see(channels=16, **network)
    found = image_below_max_pooling(seen, known_in(seen), TotalVariation())
    assert found is not None
    assert psnr(found, image) > 27


def test_what_was_not_the_largest_counts():
    seen, image = see()
    known = known_in(seen)
    bounded = image_below_max_pooling(seen, known, TotalVariation())
    # A site that is kept whole stays what it is at first: nothing.
    without = image_below_max_pooling(seen, known, TotalVariation(), options=PooledImageOptions(damping=1.0))
    assert psnr(bounded, image) > psnr(without, image) + 1


@pytest.mark.parametrize(
    "network", [{"pool": F.avg_pool2d}, {"after": torch.tanh}], ids=["average pooling", "no rectifier"]
)
def test_nothing_where_something_else_lies_below(network):
    seen, _ = see(**network)
    assert image_below_max_pooling(seen, known_in(seen), TotalVariation()) is None


def test_no_time_is_no_image():
    seen, _ = see()
    with pytest.raises(OutOfTime):
        image_below_max_pooling(seen, known_in(seen), TotalVariation(), budget=Budget(1e-9))


def test_joint_begins_there(monkeypatch):
    seen, image = see(channels=16)
    begun = []

    def one_step(equations, prior, max_steps, memory, budget, begin, options):
        begun.append(begin)
        return gauss_newton(equations, prior, 1, memory, budget, begin, options)

    monkeypatch.setattr("leakage_audit.attacks.joint_solver.gauss_newton_with_kinks", one_step)
    Joint()(seen)
    assert psnr(begun[0], image) > 27
