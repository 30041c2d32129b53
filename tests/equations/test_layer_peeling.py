import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.attacks.joint import Joint
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.layer_peeling import peel_layers
from leakage_audit.observation import observe
from leakage_audit.scores.metrics import score


def network(seed):
    """Its second and third convolution are each solved on their own."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for channels, filters in ((3, 6), (6, 9), (9, 12)):
        layers += [nn.Conv2d(channels, filters, 3), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 36, 10))


def see(seed):
    image = (0.5 + 0.15 * draw(3, 12, 12, seed=seed)).float()
    return image, observe(network(seed), image, seed % 10, mean=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_noise_on_the_way_is_what_it_is(seed):
    image, seen = see(seed)
    equations = peel_layers(seen.to(torch.float64), relative_error_of(torch.float32))
    assert len(equations.layers) == 1
    true = equations.residual(image.double()[None])[: equations.sizes[0]].square().mean().sqrt()
    expected = equations.noise[: equations.sizes[0]].mean()
    assert true < expected < 100 * true  # rounding is taken to be four units, which is more than it is


@pytest.mark.parametrize("seed", range(3))
def test_exact_through_layers_solved_on_their_own(seed):
    image, seen = see(seed)
    found = Joint()(seen)
    assert found.succeeded
    assert score(found.images, image[None]).psnr[0] > 110
    wrong = (found.images[0] - image).double().square().mean().sqrt()
    assert wrong < found.details["std"].max() < 1e-4


def test_an_image_that_is_grey_all_over():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 4))
    grey = torch.full((3, 8, 8), 0.5)
    found = Joint()(observe(net, grey, 1, mean=0.5))
    assert score(found.images, grey[None]).psnr[0] > 100


def test_noise_on_the_last_layer_is_taken_for_that_of_all():
    _, seen = see(0)
    seen = seen.to(torch.float64)
    last = seen.gradients["7.weight"]
    noise = 1e-3 * last.abs().max()
    last += noise * draw(*last.shape)
    for block in peel_layers(seen, relative_error_of(torch.float32)).blocks[1:]:
        assert block.noise == pytest.approx(float(noise), rel=0.2)


def test_rounding_alone_is_no_such_noise():
    _, seen = see(0)
    rounding = relative_error_of(torch.float32)
    for block in peel_layers(seen.to(torch.float64), rounding).blocks[1:]:
        assert block.noise == pytest.approx(rounding * float(block.target.square().mean().sqrt()))


def test_rectified_features_may_have_errors():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    image = 0.5 + 0.2 * draw(1, 3, 8, 8)
    equations = peel_layers(
        observe(net, image.float(), 1, mean=0.5).to(torch.float64), relative_error_of(torch.float32)
    )
    assert equations.residual(image).abs().max() < 1e-4
