import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from leakage_audit.attacks.cosine_tv import CosineTV, _Objective
from leakage_audit.attacks.ending import EndingOptions
from leakage_audit.attacks.recipes import DECAYS, PRESETS, STARTS
from leakage_audit.matching.objective import Candidates, cosine_distance
from leakage_audit.matching.total_variation import opponent_variation, total_variation
from leakage_audit.observation import observe
from leakage_audit.options import recorded
from leakage_audit.runtime import Budget


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.norm, self.activation, self.last = nn.BatchNorm2d(12), activation, nn.Linear(12 * 64, 10)

    def forward(self, x):
        h = self.activation(self.norm(self.first(x)))
        return self.last(nn.functional.avg_pool2d(h + self.activation(self.second(h)), 2).flatten(1))


def chain(activation):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), activation, nn.Conv2d(12, 8, 4, 2), activation, nn.Flatten(), nn.Linear(288, 10)
    )


def smooth(count=1, seed=3):
    """Soft blobs, 16 × 16, a different one for each image."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(16, 16), mode="bicubic", align_corners=True).clamp(0, 1)


def look(network, count=1, **kwargs):
    return observe(network, smooth(count), torch.arange(count) + 2, mean=0.5, **kwargs)


def psnr(found, true):
    return -10 * math.log10(float((found - true).square().mean()))


@pytest.fixture(autouse=True)
def _weights():
    torch.manual_seed(10)


@pytest.mark.parametrize(
    "build",
    [
        lambda: chain(nn.Tanh()),
        lambda: chain(nn.ReLU()),
        lambda: Residual(nn.Tanh()).eval(),
        lambda: Residual(nn.ReLU()).eval(),
    ],
    ids=["tanh", "relu", "residual tanh", "residual relu"],
)
def test_modern_reconstructs_through_any_network(build):
    seen = look(build())
    found = CosineTV(iterations=600)(seen)
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert psnr(found.images, smooth()) > psnr(grey, smooth()) + 6
    assert found.converged
    assert found.details["labels"].tolist() == [2]
    assert found.details["labels_inferred"]


def test_batch_is_attacked_at_once():
    seen = look(chain(nn.Tanh()), count=2, grant_labels=True)
    found = CosineTV(iterations=400)(seen)
    assert psnr(found.images, smooth(2)) > 17
    assert not found.details["labels_inferred"]


def test_residual_is_the_objective_at_the_returned_image():
    seen = look(chain(nn.Tanh()))
    found = CosineTV("original", iterations=20, restarts=2)(seen)
    x, candidates = seen.to_input(found.images), Candidates(seen)
    distance = cosine_distance(candidates.gradients(x, torch.tensor([2])), candidates.targets)
    assert found.residual == pytest.approx(float((distance + 0.02 * total_variation(x)).detach()), rel=1e-4)
    assert found.details["cosine_distance"] == pytest.approx(distance.item(), rel=1e-3)


def test_more_steps_or_starts_never_raise_the_objective():
    seen = look(chain(nn.Tanh()))
    short, long = (CosineTV("paper", iterations=n, lr=0.5)(seen).residual for n in (5, 25))
    assert long <= short
    one, three = (CosineTV("original", iterations=5, restarts=n)(seen).residual for n in (1, 3))
    assert three <= one


def test_seeded_and_global_stream_untouched():
    seen = look(chain(nn.Tanh()))
    before = torch.get_rng_state()
    first, second, other = (CosineTV(iterations=3, seed=s)(seen).images for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_images_stay_in_their_range():
    seen = look(chain(nn.Tanh()))
    for preset in ("original", "modern"):
        found = CosineTV(preset, iterations=10, restarts=1)(seen)
        assert found.images.min() >= -1e-6
        assert found.images.max() <= 1 + 1e-6


def test_budget_ends_the_run_and_hears_of_it():
    told = []
    found = CosineTV(iterations=5, restarts=2)(
        look(chain(nn.Tanh())), Budget(report=lambda what, done: told.append(done))
    )
    assert told == [k / 10 for k in range(11)]
    assert found.ended.startswith("10 of 10 steps")
    found = CosineTV(iterations=10**6)(look(chain(nn.Tanh())), Budget(seconds=0.2))
    assert found.seconds < 5
    assert found.images.shape == (1, 3, 16, 16)


def test_objective_that_is_not_finite_ends_the_start_not_the_attack():
    seen = look(chain(nn.Tanh()))
    found = CosineTV("paper", iterations=30, lr=1e36)(seen)
    assert torch.isfinite(found.images).all()
    assert math.isfinite(found.residual)


def test_half_precision_gradients_are_attacked_in_single_precision():
    seen = look(chain(nn.Tanh())).to(torch.float16)
    assert CosineTV(iterations=2)(seen).images.dtype == torch.float32


def test_settings_say_what_the_preset_meant():
    settings = CosineTV("paper").settings
    assert settings.pop("recipe")["milestones"] == [0.375, 0.625, 0.875]
    assert settings == {
        "preset": "paper", "iterations": 4800, "restarts": 1, "lr": 1e-3, "tv": 0.01, "seed": 0,
        "in_time": False, "ending": recorded(EndingOptions()),
    }  # fmt: skip
    assert CosineTV("original", restarts=7).settings["restarts"] == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "fast"}, "paper, original, modern"),
        ({"iterations": 0}, r"Recipe\.iterations must be positive, got 0"),
        ({"restarts": 0}, r"Recipe\.restarts must be positive"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"tv": -1.0}, r"Recipe\.tv must be not negative"),
        ({"lr": float("nan")}, "lr must be positive"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        CosineTV(**wrong)


def test_a_recipe_of_ones_own_is_run_and_recorded():
    own = replace(PRESETS["original"], milestones=(0.5,), drop=0.25, iterations=4)
    assert [DECAYS[own.decay](share, own) for share in (0.25, 0.5, 0.75)] == [1.0, 0.25, 0.25]
    attack = CosineTV(recipe=own, restarts=1)
    assert attack.settings["recipe"]["milestones"] == [0.5]
    assert (attack.iterations, attack.restarts, attack.lr) == (4, 1, own.lr)
    again = CosineTV(**attack.arguments)
    seen = look(chain(nn.Tanh()))
    assert torch.equal(attack(seen).images, again(seen).images)
    for part in ("decay", "sign", "start", "distance", "variation"):
        with pytest.raises(ValueError, match=rf"Recipe\.{part} must be one of"):
            replace(own, **{part: "none such"})


def test_step_decay_divides_by_ten_at_three_five_and_seven_eighths():
    shares = [DECAYS["steps"](k / 16, PRESETS["original"]) for k in range(16)]
    assert shares == pytest.approx([1] * 6 + [0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_tiles_repeat():
    x = STARTS["tiled"]((2, 3, 10, 9), torch.Generator().manual_seed(0), PRESETS["modern"])
    assert x.shape == (2, 3, 10, 9)
    assert torch.equal(x[..., :4, :4], x[..., 4:8, 4:8])
    assert torch.equal(x[..., 8:10, 8:9], x[..., :2, :1])


def test_only_a_single_image_s_features_are_known():
    for count, known in ((1, True), (2, False)):
        seen = look(chain(nn.Tanh()), count, grant_labels=True)
        x, found = seen.to_input(smooth(count, seed=5)), Candidates(seen)
        distance = cosine_distance(found.gradients(x, seen.labels), found.targets)
        without = distance + PRESETS["modern"].tv * opponent_variation(x)
        assert (CosineTV().objective(seen, x) > float(without.detach()) + 1e-6) is known


@pytest.mark.parametrize("grant", [False, True], ids=["inferred", "granted"])
def test_a_batch_that_comes_apart_has_features_of_its_own(grant):
    seen = look(chain(nn.Tanh()), 2, grant_labels=grant)
    attack = CosineTV(iterations=1)
    known = attack._told_apart(seen, Budget())
    own = Candidates(seen)
    own.gradients(seen.to_input(smooth(2)), known.labels)  # the images that `look` takes
    torch.testing.assert_close(known.features.float(), own.features.detach(), rtol=0, atol=1e-4)
    apart = _Objective(attack.recipe, seen, known.labels, known=known)(seen.to_input(smooth(2)))[0]
    plain = _Objective(attack.recipe, seen, known.labels)(seen.to_input(smooth(2)))[0]
    assert float((apart - plain).detach()) < 1e-6
    wrong = replace(seen, labels=known.labels + 3)  # no images of these would share this
    assert attack._told_apart(wrong, Budget()) is None
