import math

import pytest
import torch
from cases import FULL, NETWORKS, draw, pictures

from leakage_audit.attacks.ending import EndingOptions
from leakage_audit.attacks.rgap import RGAP
from leakage_audit.models import build
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget
from leakage_audit.scores.metrics import score


def psnr(found, truth):
    return score(found.images, truth[None] if truth.ndim == 3 else truth).psnr[0]


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("seed", range(2))
def test_exact_where_every_system_is_full(name, seed):
    seen, x = NETWORKS[name].observe(seed)
    found = RGAP()(seen)
    torch.testing.assert_close(found.images, x, rtol=1e-6, atol=1e-6)
    assert found.converged
    assert found.succeeded
    assert found.residual < 1e-7
    assert found.ended == "every layer's system determines its input"


@pytest.mark.parametrize(
    ("variant", "dtype", "least"),
    [
        ("cnn2_v1", torch.float64, 130),
        ("cnn2_v1", torch.float32, 90),
        pytest.param("cnn3_v3", torch.float64, 130, marks=pytest.mark.slow),
        pytest.param("cnn3_v3", torch.float32, 90, marks=pytest.mark.slow),
    ],
)
def test_decibels_of_the_full_variants(variant, dtype, least):
    torch.manual_seed(10)
    network, image = build(variant).to(dtype), pictures()[0]
    found = RGAP()(observe(network, image.to(dtype), 3, mean=0.5))
    assert psnr(found, image) >= least


def test_a_deficient_layer_is_named_and_the_guess_is_the_shortest():
    torch.manual_seed(10)
    image = pictures()[0]
    found = RGAP()(observe(build("cnn2_v2"), image, 3, mean=0.5))
    assert found.succeeded  # it agrees with the gradient, which leaves this much open
    assert found.details["deficiency"] == {"conv1": -1470}
    assert found.ended == "least-norm guess where the system falls short: conv1 by 1470"
    assert 5 < psnr(found, image) < 40
    assert (found.images - 0.5).norm() <= (image - 0.5).norm()


def test_a_batch_is_read_as_one_image_and_said_so():
    torch.manual_seed(0)
    images = pictures(indices=(0, 1))
    found = RGAP()(observe(build("cnn2_v1"), images, [1, 2], mean=0.5))
    assert "averages 2 images and was read as one's" in found.ended
    assert not found.succeeded


def test_an_activation_without_an_inverse_is_refused():
    seen, _ = NETWORKS["relu"].observe()
    with pytest.raises(UnreadableNetwork, match="relu"):
        RGAP()(seen)


def test_gradients_that_hold_nothing_give_grey():
    seen, _ = NETWORKS["one convolution"].observe(loss=lambda scores, labels: 0 * scores.sum())
    found = RGAP()(seen, Budget(1))
    assert not found.converged
    assert math.isnan(found.residual)
    assert (found.images == 0.5).all()


@pytest.mark.parametrize("tolerance", [0, 1, -1e-3, math.nan])
def test_settings_are_checked(tolerance):
    with pytest.raises(ValueError, match=f"tolerance must lie between 0 and 1, got {tolerance}"):
        RGAP(tolerance)


@pytest.mark.parametrize(("noise", "succeeded"), [(1e-5, True), (0.1, False)])
def test_gradients_that_contradict_each_other_do_not_count_as_matched(noise, succeeded):
    seen, _ = NETWORKS["one convolution"].observe(0)
    for gradient in seen.gradients.values():
        gradient += noise * gradient.abs().mean() * draw(*gradient.shape, seed=3)
    found = RGAP()(seen)
    assert found.ended == "every layer's system determines its input"
    assert found.converged
    assert found.succeeded is succeeded
    loose = EndingOptions(matched=min(1.0, 1.01e-3 * found.misfit))
    assert RGAP(ending=loose)(seen).misfit == pytest.approx(1e-3 * found.misfit / loose.matched, rel=0.01)


def test_the_worst_layer_decides():
    seen, _ = NETWORKS["modules"].observe(0)
    first = next(iter(seen.gradients.values()))  # of the layer that the walk reaches last
    first += 0.1 * first.abs().mean() * draw(*first.shape, seed=3)
    found = RGAP()(seen)
    assert found.residual > 1e-3
    assert not found.succeeded
