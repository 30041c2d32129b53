import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, conv, draw, layer_of
from torch import nn
from torch.nn.grad import conv2d_weight

from leakage_audit.equations.backward_recovery import recover_backwards
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.input_from_gradient import Reader, solve_for_input
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.observation import observe

EPS = relative_error_of(torch.float64)


class Residual(nn.Module):
    """As torchvision's ResNets: a stem with max pooling, a block with a shortcut, one that halves the size."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 6, 3, padding=1), activation()
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.down, self.short = nn.Conv2d(6, 24, 3, 2, 1), nn.Conv2d(6, 24, 1, 2)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(24 * 4, 5)

    def forward(self, x):
        h = F.max_pool2d(self.act(self.norm(self.stem(x))), 2)
        h = self.act(h + self.two(self.act(self.one(h))))
        return self.fc(self.act(self.down(h) + self.short(h)).flatten(1))


def network(activation=nn.ReLU):
    torch.manual_seed(0)
    return Residual(activation).double().eval()


def see(network, size=8, dtype=torch.float64):
    image = 0.5 + 0.2 * draw(1, 3, size, size)
    return image, observe(network.to(dtype), image.to(dtype), 2, mean=0.5).to(torch.float64)


def inputs_of(network, image):
    """Input of each layer at an image, by hooks."""
    found = {}
    for name, module in network.named_modules():
        module.register_forward_pre_hook(lambda m, i, name=name: found.__setitem__(name, i[0]))
    network(image - 0.5)
    return found


def read_input(module, shape, delta, gradient, rounding):
    return solve_for_input([Reader(module, delta[None], gradient)], tuple(shape), rounding)[0]


class TestReading:
    @pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if c != "same padding"])
    def test_what_is_read_is_so(self, case):
        module = conv(case)
        layer = layer_of(module)
        h, delta = draw(*layer.in_shape), draw(*layer.out_shape, seed=2)
        geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        gradient = conv2d_weight(h[None], layer.weight.shape, delta[None], *geometry)
        found = read_input(module, layer.in_shape, delta, gradient, EPS)
        if found is None:
            assert layer.groups > 1
            return
        h = h.flatten(1)
        torch.testing.assert_close(found.value, h if found.basis is None else h @ found.basis)

    def test_many_filters_tell_all(self):
        module = nn.Conv2d(2, 12, 3, padding=1).double()
        h, delta = draw(2, 5, 6), draw(12, 5, 6, seed=2)
        gradient = conv2d_weight(h[None], module.weight.shape, delta[None], padding=1)
        noisy = gradient * (1 + 1e-5 * draw(*gradient.shape, seed=3))
        found = read_input(module, h.shape, delta, noisy, 1e-5)
        assert found.basis is None
        wrong = (found.value - h.flatten(1)) / found.noise
        assert 0.3 < float(wrong.square().mean().sqrt()) < 2

    def test_a_wrong_derivative_is_noticed(self):
        module = nn.Conv2d(2, 12, 3, padding=1).double()
        h, delta = draw(1, 2, 5, 6), draw(12, 5, 6, seed=2)
        gradient = conv2d_weight(h, module.weight.shape, delta[None], padding=1)
        assert read_input(module, h.shape[1:], delta.where(delta > -1, 0.0), gradient, EPS) is None

    def test_fully_connected(self):
        module = nn.Linear(7, 4).double()
        h, delta = draw(7), draw(4, seed=2)
        found = read_input(module, h.shape, delta, torch.outer(delta, h), EPS)
        torch.testing.assert_close(found.value[:, 0], h)


class TestWalk:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_inputs_of_a_rectifier_network(self, dtype):
        image, seen = see(network(), dtype=dtype)
        rounding = relative_error_of(dtype)
        recovered = {layer.name: layer for layer in recover_backwards(seen, rounding)}
        truth = inputs_of(seen.network, image)
        assert {"fc", "down", "two", "one"} <= recovered.keys()
        for name, layer in recovered.items():
            h = truth[name][0].detach().reshape(len(truth[name][0]), -1)
            h = h if layer.input.basis is None else h @ layer.input.basis
            torch.testing.assert_close(layer.input.value, h, rtol=0, atol=1e3 * rounding * float(h.abs().max()))

    def test_slopes_are_autograd_s(self):
        image, seen = see(network())
        recovered = {layer.name: layer for layer in recover_backwards(seen, EPS)}
        truth = inputs_of(seen.network, image)
        (input_gradient,) = torch.autograd.grad(
            F.cross_entropy(seen.network(image - 0.5), torch.tensor([2])), truth["one"]
        )
        torch.testing.assert_close(recovered["one"].input_gradient, input_gradient)

    def test_a_shortcut_leads_around_what_is_within_a_block(self):
        recovered = recover_backwards(see(network())[1], EPS)
        assert {layer.name for layer in recovered if layer.is_bottleneck} == {"fc", "down", "one"}

    def test_an_activation_that_hides_its_slope_ends_the_walk(self):
        recovered = recover_backwards(see(network(nn.GELU))[1], EPS)
        assert [layer.name for layer in recovered] == ["fc"]

    def test_noise_ends_the_walk(self):
        _, seen = see(network())
        for gradient in seen.gradients.values():
            gradient *= 1 + 1e-3 * draw(*gradient.shape, seed=9)
        assert [layer.name for layer in recover_backwards(seen, EPS)] in ([], ["fc"])

    def test_a_layer_used_twice_is_left_alone(self):
        torch.manual_seed(0)
        shared = nn.Linear(6, 6)
        chain = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(6, 4))
        recovered = recover_backwards(see(chain.double())[1], EPS)
        assert "3" not in {layer.name for layer in recovered}

    def test_nothing_for_a_batch_or_without_a_last_bias(self):
        images = 0.5 + 0.2 * draw(2, 3, 8, 8)
        assert recover_backwards(observe(network(), images, torch.tensor([0, 1]), mean=0.5), EPS) == []
        bare = network()
        bare.fc = nn.Linear(96, 5, bias=False).double()
        assert recover_backwards(see(bare)[1], EPS) == []


class TestEquations:
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
    def test_the_true_image_solves_them(self, activation):
        image, seen = see(network(activation))
        equations = RecoveredInputEquations(seen, recover_backwards(seen, EPS), EPS)
        assert equations.residual(image).abs().max() < 1e-8

    def test_gradients_below_are_those_of_the_whole_network(self):
        _, seen = see(network())
        equations = RecoveredInputEquations(seen, recover_backwards(seen, EPS), EPS)
        assert [block.name for block in equations.blocks] == [
            "input of one", "stem.weight", "stem.bias", "norm.weight", "norm.bias"
        ]  # fmt: skip

    def test_derivatives(self):
        image, seen = see(network())
        equations = RecoveredInputEquations(seen, recover_backwards(seen, EPS), EPS)
        r, jacobian = equations.linearize(image.flatten(), 1e8)
        perturbation = 1e-7 * draw(192, seed=4)
        torch.testing.assert_close(
            (equations.residual(image.flatten() + perturbation) - r) / 1e-7,
            jacobian @ perturbation / 1e-7,
            rtol=1e-4,
            atol=1e-4,
        )
