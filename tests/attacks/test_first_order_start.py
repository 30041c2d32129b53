"""Joint beside the first-order recipe: where the time is short, and where it has less to go on than it thinks."""

import math
from dataclasses import replace

import pytest
import torch
from cases import pictures
from ticking import Clock, Ticks
from torch import nn

from leakage_audit.attacks import CosineTV, Joint
from leakage_audit.attacks.first_order_start import FirstOrderStart
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import relative_error_of
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfTime
from leakage_audit.scores import score
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.stopping import Status


@pytest.fixture(autouse=True)
def _midnight():
    Clock.now[0] = 0.0


@pytest.fixture(scope="module")
def image():
    return pictures()[:1, :, 8:24, 8:24].contiguous()


def convnet(width=16):
    """Rectifiers, normalisation by running statistics, two max poolings; as many features as the image has entries."""
    torch.manual_seed(1)
    layers, before = [Ticks(1)], 3
    for after, pooled in ((width, False), (width, True), (2 * width, False), (4 * width, True)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers, before = layers + [nn.MaxPool2d(2)] * pooled, after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * before, 10)).eval()


def psnr(found, image):
    return score(found.images, image).psnr[0]


@pytest.fixture(scope="module")
def seen(image):
    return observe(convnet(), image, 3, mean=0.5)


def test_known_features_open_a_network_with_pooling(seen, image):
    """Ahead of where gradient matching has converged, in a fixed number of passes; the image is the oracle."""
    joint, matched = Joint()(seen, Clock(1000.0)), CosineTV(iterations=500)(seen)
    assert psnr(joint, image) > psnr(matched, image) + 2


@pytest.mark.parametrize("seconds", [300.0, 600.0])
def test_is_not_behind_the_recipe_in_the_same_time(seen, image, seconds):
    joint, matched = Joint()(seen, Clock(seconds)), CosineTV()(seen, Clock(seconds))
    assert psnr(joint, image) > psnr(matched, image) - 0.3


def test_where_no_equations_are_ready_in_time_the_recipe_takes_the_rest(image):
    torch.manual_seed(0)
    slow = nn.Sequential(Ticks(1), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 10))
    found = Joint()(observe(slow, image, 3, mean=0.5), Clock(12.0))
    assert not found.converged
    assert "steps" in found.ended
    assert found.images.isfinite().all()


def test_an_iteration_that_gave_way_goes_on_where_time_is_left(image):
    """So that it loses nothing by it."""
    torch.manual_seed(0)
    leaky = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.LeakyReLU(0.2), nn.Conv2d(12, 12, 3, 2), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Linear(48, 10),
    )  # fmt: skip
    image = image[..., ::2, ::2].contiguous()
    seen = observe(leaky, image, 3, mean=0.5)
    straight = Joint(options=JointOptions(fewest=0))(seen)
    gave_way = Joint(options=JointOptions(fewest=10**6))(seen, Budget(1000.0))
    assert psnr(gave_way, image) > max(psnr(straight, image), psnr(CosineTV(iterations=500)(seen), image)) - 0.3
    assert gave_way.details["steps"] > 1


def test_several_images_or_no_time_at_all_are_no_result(seen, image):
    with pytest.raises(OutOfTime):
        Joint()(seen, Budget(1e-9))
    network, images = convnet(2), torch.cat([image, image.flip(-1)])
    with pytest.raises(OutOfTime):
        Joint()(observe(network, images, torch.tensor([0, 1]), mean=0.5), Clock(1.0))


class TestStart:
    def test_runs_its_whole_course_in_a_short_time(self, seen):
        """Its last steps are short, as they are at the end of all of them."""
        short = CosineTV(iterations=500, in_time=True)(seen, Clock(40.0))
        cut = CosineTV(iterations=500)(seen, Clock(40.0))
        assert short.residual < cut.residual
        assert torch.equal(CosineTV(iterations=20, in_time=True)(seen).images, CosineTV(iterations=20)(seen).images)

    def test_is_what_cosine_tv_finds_where_nothing_else_fits(self, seen):
        start = FirstOrderStart(seen, None, Clock(130.0))
        assert torch.equal(start.image, CosineTV()(seen, Clock(129.0)).images.double())

    def test_begins_near_grey_where_next_to_no_steps_fit(self, seen):
        """Its tiled pattern explains less than grey does by then."""
        few, as_it_stands = (FirstOrderStart(seen, None, Clock(20.0), few=few, fewer=few).image for few in (50, 1))
        assert CosineTV().objective(seen, few - 0.5) < 0.9 * CosineTV().objective(seen, as_it_stands - 0.5)

    def test_begins_with_long_steps_where_only_a_few_fit(self, seen):
        """From its own pattern, as what it finds from elsewhere is further from the image."""
        few = FirstOrderStart(seen, None, Clock(46.0))
        recipe = CosineTV(recipe=replace(CosineTV().recipe, warming=400.0))
        assert torch.equal(few.image, recipe(seen, Clock(45.0)).images.double())

    def test_is_grey_where_the_recipe_likes_that_better(self, seen):
        """One step from its tiled pattern is none."""
        assert torch.equal(FirstOrderStart(seen, 1, Budget()).image, torch.full((1, 3, 16, 16), 0.5).double())

    @pytest.mark.parametrize("status", [Status.STALLED, Status.TIME_UP], ids=str)
    def test_the_least_residual_decides(self, seen, image, status):
        exact = seen.to(torch.float64)
        equations = AutogradEquations(exact, relative_error_of(torch.float32))
        start, nan = FirstOrderStart(seen, 50, Budget()), torch.full((768,), math.nan).double()

        def at(x):
            return Solution(x.flatten(), equations.evaluate(x.flatten()), nan, None, 3, status)

        truth, noise = at(image.double()), at(torch.rand(image.shape).double())
        assert start.or_solution(equations, lambda _: truth, True) == truth
        kept = start.or_solution(equations, lambda _: noise, True)
        assert torch.equal(kept.image, start.image.flatten())
        assert kept.status is (Status.TIME_UP if status is Status.TIME_UP else Status.KEPT_START)
