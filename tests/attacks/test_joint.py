import copy
import json

import pytest
import torch
from cases import Residual, smooth_picture
from jsonargparse import ArgumentParser
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.options import recorded
from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime
from leakage_audit.scores.metrics import score
from leakage_audit.solvers.options import SolverOptions, StoppingOptions


def small(variant, size=12, seed=10):
    torch.manual_seed(seed)
    return build(variant, image_size=size)


def see(network, image, label=3, **known):
    return observe(network, image, label, mean=0.5, **known)


def psnr(found, image):
    return score(found.images, image).psnr[0]


class TestSmooth:
    @pytest.mark.parametrize("variant", ["cnn2_v1", "cnn3_v3"])
    def test_exact_where_every_layer_is_determined(self, variant):
        image = smooth_picture()
        found = Joint()(see(small(variant), image))
        assert found.succeeded
        assert psnr(found, image) > 100
        assert found.details["joint_deficiency"] == 0
        assert found.details["pinned"] == image.numel()

    @pytest.mark.parametrize("variant", ["cnn2_v2", "cnn3_v1", "cnn3_v2", "cnn4_v1"])
    def test_solves_the_equations_where_they_fall_short(self, variant):
        image, network = smooth_picture(16), small(variant, 16)
        seen = see(network, image)
        found = Joint()(seen)
        assert found.succeeded
        assert found.details["rank"] <= found.details["equations"]
        again = see(network, found.images.float())
        for name, gradient in seen.gradients.items():
            torch.testing.assert_close(
                again.gradients[name], gradient, rtol=1e-2, atol=2e-3 * float(gradient.abs().max())
            )

    def test_rank_is_that_of_the_paper_network(self):
        # The count of docs/method.md, (M15): |z| + |w| − c² of the deepest deficient layer, and the weights below it.
        found = Joint()(see(small("cnn3_v1", 24), smooth_picture(24)))
        z, w = 3 * 10 * 10, 6 * 3 * 16
        assert found.details["rank"] == z + w - 9 + 6 * 3 * 9

    def test_a_prior_beats_none(self):
        image, network = smooth_picture(16), small("cnn3_v1", 16)
        seen = see(network, image)
        assert psnr(Joint()(seen), image) > psnr(Joint(prior="none")(seen), image) + 3

    def test_standard_deviation_covers_the_error(self):
        image = smooth_picture(16)
        found = Joint()(see(small("cnn2_v2", 16), image))
        std = found.details["std"]
        assert std.shape == image.shape
        error = (found.images - image).abs()
        assert float((error < 4 * std).double().mean()) > 0.8

    def test_noise_gives_a_smooth_image(self):
        image = smooth_picture(16)
        seen = see(small("cnn2_v2", 16), image)
        generator = torch.Generator().manual_seed(0)
        for gradient in seen.gradients.values():
            gradient += 0.01 * gradient.abs().max() * torch.randn(gradient.shape, generator=generator)
        assert psnr(Joint()(seen), image) > 15

    def test_normalised_inputs(self):
        image, network = smooth_picture(), small("cnn2_v1")
        seen = observe(network, image, 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
        assert psnr(Joint()(seen), image) > 100


class TestOtherNetworks:
    def test_residual_network(self):
        torch.manual_seed(0)
        image = smooth_picture()
        found = Joint()(see(Residual(torch.tanh), image))
        assert found.succeeded
        assert psnr(found, image) > 60

    def test_batch_normalisation_and_pooling(self):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.BatchNorm2d(10),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(360, 5),
        )
        image = smooth_picture()
        found = Joint()(see(network.eval(), image))
        assert psnr(found, image) > 25

    @pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2)], ids=["relu", "leaky"])
    def test_rectifiers(self, activation):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 12, 3), activation, nn.Conv2d(12, 8, 3), activation, nn.Flatten(), nn.Linear(8 * 64, 10)
        )
        image = smooth_picture()
        assert psnr(Joint()(see(network, image)), image) > 25

    def test_no_bias_in_the_last_layer(self):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(600, 10, bias=False))
        image = smooth_picture()
        assert psnr(Joint()(see(network, image)), image) > 60


class TestLargeImages:
    @pytest.mark.parametrize("variant", ["cnn2_v2", "cnn3_v1"])
    def test_without_a_jacobian(self, variant):
        image = smooth_picture(16)
        found = Joint(max_memory_gb=1e-3)(see(small(variant, 16), image))
        assert found.details["rank"] is None
        assert found.residual < 0.05
        assert psnr(found, image) > 24


class TestBadInput:
    def test_nan(self):
        seen = see(small("cnn3_v1"), smooth_picture())
        seen.gradients["conv1.weight"][0, 0, 0, 0] = torch.nan
        found = Joint()(seen)
        assert not found.succeeded
        assert "NaN" in found.ended

    def test_zero(self):
        seen = see(small("cnn3_v1"), smooth_picture())
        for gradient in seen.gradients.values():
            gradient.zero_()
        assert not Joint()(seen).succeeded

    def test_zero_in_the_last_layer_only(self):
        seen = see(small("cnn3_v1"), smooth_picture())
        for name in ("fc.weight", "fc.bias"):
            seen.gradients[name].zero_()
        found = Joint()(seen)
        assert not found.succeeded
        assert torch.isfinite(found.images).all()

    def test_nan_weights(self):
        network = small("cnn3_v1")
        seen = see(network, smooth_picture())
        with torch.no_grad():
            seen.network.conv1.weight[0, 0, 0, 0] = torch.nan
        found = Joint()(seen)
        assert not found.succeeded
        assert torch.isfinite(found.images).all()

    def test_gradient_of_another_network(self):
        seen, other = (see(small("cnn3_v1", seed=seed), smooth_picture()) for seed in (10, 11))
        for name, gradient in other.gradients.items():
            seen.gradients[name].copy_(gradient)
        found = Joint()(seen)
        assert not found.succeeded
        assert found.residual > 0.01

    def test_saturated(self):
        network = small("cnn3_v1")
        with torch.no_grad():
            for p in network.parameters():
                p *= 30
        found = Joint()(see(network, smooth_picture()))
        assert torch.isfinite(found.images).all()

    def test_dead_channel(self):
        network = small("cnn3_v1")
        with torch.no_grad():
            network.conv1.weight[2] = 0
        assert torch.isfinite(Joint()(see(network, smooth_picture())).images).all()

    def test_a_wrong_label_changes_nothing(self):
        # The last bias's gradient holds δ itself; the label is not needed.
        image, network = smooth_picture(), small("cnn2_v1")
        seen = see(network, image, grant_labels=True)
        seen.labels.fill_(7)
        assert psnr(Joint()(seen), image) > 100


class TestManners:
    def test_settings(self):
        attack = Joint(prior="tv", max_steps=3)
        options = recorded(JointOptions())
        assert attack.settings == {"prior": "tv", "max_steps": 3, "max_memory_gb": 2.0, "options": options}
        assert json.loads(json.dumps(attack.settings)) == attack.settings

    def test_every_option_is_recorded_and_can_be_written_in_yaml(self):
        written = {"solver": {"stopping": {"solved": 1e-6}}, "separation": {"starts": 3}, "pinned": 0.01}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Joint, "joint")
        chosen = parser.instantiate_classes(parser.parse_object({"joint": {"options": written}})).joint
        found = chosen.settings["options"]
        assert found["solver"]["stopping"]["solved"] == 1e-6
        assert found["solver"]["cg"]["stopping"]["solved"] == 1e-3
        assert found["separation"]["starts"] == 3
        assert found["pinned"] == 0.01

    def test_options_count(self):
        seen = see(small("cnn3_v1"), smooth_picture())
        loose = SolverOptions(stopping=StoppingOptions(solved=1.0, settled=1.0))
        assert Joint(options=JointOptions(solver=loose))(seen).details["steps"] == 1
        assert Joint(options=JointOptions(pinned=100.0))(seen).details["pinned"] == 432

    @pytest.mark.parametrize("wrong", [{"prior": "astrology"}, {"max_steps": 0}, {"max_memory_gb": 0.0}], ids=str)
    def test_refuses(self, wrong):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            Joint(**wrong)

    def test_few_steps_are_admitted(self):
        found = Joint(max_steps=1)(see(small("cnn3_v1"), smooth_picture()))
        assert not found.succeeded
        assert "1 steps" in found.ended

    def test_stops_when_the_time_is_up(self):
        for seconds in (1e-9, 1e-3):  # before anything is known: no grey picture
            with pytest.raises(OutOfTime):
                Joint()(see(small("cnn3_v1"), smooth_picture()), Budget(seconds))

    def test_is_not_begun_where_it_does_not_fit_in_memory(self):
        with pytest.raises(OutOfMemory, match="max_memory_gb"):
            Joint()(see(small("cnn3_v1"), smooth_picture()), Budget(memory_gb=1e-5))

    def test_leaves_random_numbers_and_observation_alone(self):
        seen = see(small("cnn3_v1"), smooth_picture())
        before, stream = copy.deepcopy(seen.network.state_dict()), torch.get_rng_state()
        Joint()(seen)
        assert torch.equal(stream, torch.get_rng_state())
        for name, value in seen.network.state_dict().items():
            assert torch.equal(value, before[name])
