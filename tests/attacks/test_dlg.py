import math

import pytest
import torch
from torch import nn

from leakage_audit.attacks.dlg import DLG
from leakage_audit.matching.objective import Candidates, squared_distance
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget


def network(kernel=3, stride=1):
    torch.manual_seed(10)
    side = (8 - kernel) // stride + 1
    return nn.Sequential(nn.Conv2d(3, 6, kernel, stride), nn.Tanh(), nn.Flatten(), nn.Linear(6 * side**2, 5))


def image(count=1):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=True)


def look(count=1, grant=False, **layer):
    return observe(network(**layer), image(count), torch.arange(count) + 3, mean=0.5, grant_labels=grant)


def psnr(found, true):
    return -10 * math.log10(float((found - true).square().mean()))


@pytest.mark.parametrize("preset", ["original", "scaled"])
def test_determined_image_and_label_are_found(preset):
    found = DLG(preset, iterations=50)(look())
    assert psnr(found.images, image()) > 40
    assert found.converged
    assert found.details["labels"].tolist() == [3]
    assert found.details["labels_inferred"]


def test_batch_with_granted_labels():
    seen = look(count=2, grant=True)
    found = DLG("scaled", iterations=30)(seen)
    assert found.details["labels"].tolist() == [3, 4]
    assert not found.details["labels_inferred"]
    assert psnr(found.images, image(2)) > 30


def test_residual_is_the_distance_at_the_returned_image():
    seen = look()
    found = DLG("paper", iterations=2)(seen)
    candidates = Candidates(seen.to(torch.float64))
    gradients = candidates.gradients(seen.to_input(found.images), torch.tensor([3]))
    assert found.residual == pytest.approx(squared_distance(gradients, candidates.targets).item(), rel=1e-9)
    assert DLG("paper", iterations=5)(seen).residual <= found.residual


def test_pixels_that_no_window_reads_are_taken_from_their_neighbours():
    """A 3 × 3 kernel with stride 2 leaves the last row and column of 8 × 8 pixels unread."""
    seen = look(kernel=3, stride=2)
    filled, raw = DLG("scaled", iterations=3)(seen).images, DLG("paper", iterations=3)(seen).images
    assert torch.equal(filled[..., 7, :7], filled[..., 6, :7])
    assert torch.equal(filled[..., :7, 7], filled[..., :7, 6])
    start = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(raw[..., 7, :], start[..., 7, :] + 0.5)


def test_seeded_and_global_stream_untouched():
    seen, before = look(), torch.get_rng_state()
    first, second, other = (DLG(iterations=2, seed=s)(seen).images for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_divergence_ends_the_run_with_the_best_so_far():
    network_of_large_weights = network()
    with torch.no_grad():
        for p in network_of_large_weights.parameters():
            p.mul_(30)
    seen = observe(network_of_large_weights, image(), 3, mean=0.5)
    found = DLG("paper", iterations=20)(seen)
    assert torch.isfinite(found.images).all()
    assert not found.converged


def test_budget():
    told = []
    DLG("scaled", iterations=4)(look(), Budget(report=lambda what, done: told.append(done)))
    assert told == [0, 0.25, 0.5, 0.75, 1]
    found = DLG("original", iterations=10**6)(look(kernel=3, stride=2), Budget(seconds=0.1))
    assert found.seconds < 5


def test_settings_say_what_the_preset_meant():
    assert DLG("paper").settings == {
        "preset": "paper",
        "iterations": 300,
        "seed": 0,
        "matched": 1e-3,
        "patience": 10,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"preset": "fast"}, "paper, original, scaled"), ({"iterations": 0}, r"Recipe\.iterations must be positive")],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        DLG(**wrong)
