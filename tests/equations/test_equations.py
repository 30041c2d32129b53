import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, conv, draw, layer_of
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight

from leakage_audit.equations.autograd import AutogradEquations
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.chain import ChainEquations
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation
from leakage_audit.solvers.gaussian_update import GaussianUpdate, rank

EPS = relative_error_of(torch.float64)


def chain(activation=nn.Tanh, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=bias), activation(),
        nn.Conv2d(4, 2, 2, stride=2, bias=bias), activation(),
        nn.Flatten(), nn.Linear(2 * 16, 5), nn.Tanh(), nn.Linear(5, 4),
    ).double()  # fmt: skip


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.drop, self.fc = nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(4 * 16, 5)

    def forward(self, x):
        h = torch.sigmoid(self.norm(self.one(x)))
        return self.fc(self.drop(F.max_pool2d(h + self.two(h), 2).flatten(1)))


def branches():
    torch.manual_seed(0)
    return Branches().double().eval()


def see(network, seed=1, **options):
    image = 0.5 + 0.2 * draw(1, 3, 8, 8, seed=seed)
    return image, observe(network, image, 2, mean=0.5, **options)


def wide(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), activation, nn.Flatten(), nn.Linear(180, 5)).double()


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_derivatives(case):
    layer = layer_of(conv(case))
    x, dz = draw(1, *layer.in_shape), draw(1, *layer.out_shape, seed=2)
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    expected = conv2d_weight(x, layer.weight.shape, dz, *geometry)
    torch.testing.assert_close(layer.weight_gradient(x, dz), expected)
    torch.testing.assert_close(layer.adjoint(dz), conv2d_input(x.shape, layer.weight, dz, *geometry))


class TestChain:
    @pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.Softplus, nn.ELU])
    @pytest.mark.parametrize("bias", [True, False])
    def test_the_true_image_solves_them(self, activation, bias):
        image, seen = see(chain(activation, bias))
        equations = peel_layers(seen, EPS)
        assert equations.residual(image).abs().max() < 1e-8

    def test_rectifiers_count_where_they_are_on(self):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
        )
        image, seen = see(network.double())
        assert peel_layers(seen, EPS).residual(image).abs().max() < 1e-8

    @pytest.mark.parametrize("on", [0, 3, 32])
    def test_units_that_are_off_make_no_rows_unless_all_are(self, on):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        _, seen = see(layer.double())
        chained, z = peel_layers(seen, EPS).layers, torch.full((1, 2, 4, 4), -1.0, dtype=torch.float64)
        z.view(-1)[:on] = 1.0
        found = ChainEquations(seen, chained, z, torch.ones_like(z), 1e-3, 0.0, EPS)
        assert found.sizes[0] == (on or 32)
        assert torch.isfinite(found.residual(torch.full((192,), 0.5, dtype=torch.float64))).all()

    def test_memory_is_windows_inputs_and_outputs_forth_and_back_of_every_layer(self):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)
        )
        _, seen = see(network.double())
        found = peel_layers(seen, EPS)
        assert len(found.layers) == 2
        first = 9 * 3 * 36 + 3 * 64 + 4 * 36
        second = 4 * 4 * 9 + 4 * 36 + 2 * 9
        assert found.memory_estimate == 4 * (first + second)

    def test_gradients_are_autograd_s_at_any_image_with_the_right_derivatives(self):
        # Elsewhere than at the truth, the equations carry back from the known ∂L/∂z_D: so does this objective.
        _, seen = see(chain())
        equations = peel_layers(seen, EPS)
        other = 0.5 + 0.2 * draw(1, 3, 8, 8, seed=5)
        network, x = seen.network, other - 0.5
        z = network[2](network[1](network[0](x)))
        objective = (z * equations._dz).sum()
        names = [block.name for block in equations.blocks[1:]]
        expected = torch.autograd.grad(objective, [dict(network.named_parameters())[name] for name in names])
        for value, gradient in zip(equations.values(other)[1:], expected, strict=True):
            torch.testing.assert_close(value.flatten(), gradient.flatten())

    def test_walks_down_while_layers_are_determined(self):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 2, 3, stride=2), nn.Tanh(), nn.Conv2d(2, 6, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4)
        )
        _, seen = see(network.double())
        assert len(peel_layers(seen, EPS).layers) == 1
        assert peel_layers(seen, EPS).linear

    def test_refuses_what_it_cannot_invert(self):
        _, seen = see(wide(nn.GELU()))
        with pytest.raises(UnreadableNetwork, match="gelu"):
            peel_layers(seen, EPS)

    def test_noise_on_the_last_layer_is_noticed(self):
        _, seen = see(chain())
        quiet = peel_layers(seen, EPS).noise.max()
        seen.gradients["7.weight"][:] += 1e-3 * seen.gradients["7.weight"].abs().max() * draw(4, 5)
        assert peel_layers(seen, EPS).noise.max() > 1e3 * quiet


class TestNetwork:
    @pytest.mark.parametrize("make", [chain, branches, lambda: wide(nn.GELU())], ids=["chain", "branches", "gelu"])
    def test_the_true_image_solves_them(self, make):
        image, seen = see(make())
        assert AutogradEquations(seen, EPS).residual(image).abs().max() < 1e-8

    def test_without_a_last_bias_the_loss_itself_is_used(self):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(180, 5, bias=False)).double()
        image, seen = see(network, grant_labels=True)
        assert AutogradEquations(seen, EPS).residual(image).abs().max() < 1e-8

    def test_batch_normalisation_in_training(self):
        network = branches().train()
        network.drop.eval()
        image, seen = see(network)
        assert AutogradEquations(seen, EPS).residual(image).abs().max() < 1e-8
        assert seen.network.norm.training

    def test_a_batch(self):
        images = 0.5 + 0.2 * draw(2, 3, 8, 8)
        seen = observe(chain(), images, torch.tensor([0, 3]), mean=0.5, grant_labels=True)
        assert AutogradEquations(seen, EPS).residual(images).abs().max() < 1e-8

    def test_sums_keep_the_rank(self):
        _, seen = see(wide(nn.Tanh()))
        torch.manual_seed(0)
        big = nn.Sequential(
            nn.Conv2d(3, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 9, 3), nn.Flatten(), nn.Linear(324, 5)
        )
        image, seen = see(big.double())
        equations = AutogradEquations(seen, EPS)
        assert len(equations.noise) <= 2 * 192
        r, jacobian = equations.linearize(image, 1e8)
        assert r.abs().max() < 1e-8
        assert rank(jacobian, 1e-8) == 192


@pytest.mark.parametrize("memory", [1.0, 1e9])
def test_jacobian(memory):
    _, seen = see(chain())
    for equations in (peel_layers(seen, EPS), AutogradEquations(seen, EPS)):
        image = 0.5 + 0.1 * draw(192, seed=3)
        r, jacobian = equations.linearize(image, memory)
        torch.testing.assert_close(r, equations.residual(image))
        perturbation = 1e-6 * draw(192, seed=4)
        change = equations.residual(image + perturbation) - equations.residual(image - perturbation)
        torch.testing.assert_close(jacobian @ perturbation * 2, change, rtol=1e-5, atol=1e-11)


@pytest.mark.parametrize("m", [30, 100])
def test_step_is_the_mean_of_the_posterior(m):
    image, shape = draw(48), (1, 3, 4, 4)
    gaussian = TotalVariation().local_gaussian(0.5 + 0.1 * draw(*shape, seed=9))
    jacobian, r, noise = draw(m, 48, seed=2), draw(m, seed=3), draw(m, seed=4).square() + 0.1
    step = GaussianUpdate(image, r, jacobian, noise, gaussian)
    posterior = torch.linalg.inv(jacobian.T @ (jacobian / noise[:, None]) + gaussian.precision_matrix())
    right = jacobian.T @ ((jacobian @ image - r) / noise) + gaussian.precision_matrix() @ gaussian.mean
    torch.testing.assert_close(step.image, posterior @ right, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(step.std(), posterior.diagonal().sqrt(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("network", "expected"),
    [(chain(), False), (chain(nn.Sigmoid), False), (chain(nn.LeakyReLU), True), (branches(), True)],
    ids=["tanh", "sigmoid", "leaky", "max pooling"],
)
def test_kinks_are_noticed(network, expected):
    _, seen = see(network)
    assert AutogradEquations(seen, EPS).kinked is expected


def test_a_block_of_zeros_says_nothing():
    _, seen = see(chain())
    seen.gradients["0.bias"].zero_()
    equations = AutogradEquations(seen, EPS)
    place = [block.name for block in equations.blocks].index("0.bias")
    r = equations.residual(0.5 + 0.2 * draw(1, 3, 8, 8, seed=5)).split(equations.sizes)
    assert not r[place].any()
    assert torch.isfinite(equations.noise).all()
    assert all(part.any() for i, part in enumerate(r) if i != place)
