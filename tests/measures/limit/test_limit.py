import math

import pytest
import torch
import torch.nn.functional as F
from cases import Residual, draw, smooth_picture
from torch import nn

from leakage_audit.budget import Budget
from leakage_audit.equations.base import ROUNDING
from leakage_audit.measures.limit import GradientNoise, LimitOptions, reconstruction_limit
from leakage_audit.measures.limit.dense import bytes_needed
from leakage_audit.observation import observe
from leakage_audit.priors import MinimumNorm, Variation


def batch(count=1, size=8):
    """Soft pictures with an edge, none like the other."""
    base = smooth_picture(size)
    images = torch.cat([(base.roll(i, 3) + 0.05 * i * base.flip(2)).clamp(0, 1) for i in range(count)])
    return images.double(), torch.arange(count) % 4


class Attention(nn.Module):
    """One fused attention over the pixels' rows."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(24, 8), nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.embed(x.transpose(1, 2).flatten(2))[:, None]
        return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1))


NETWORKS = {
    "strided tanh": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5)),
    "rectifiers and max pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 9), nn.ReLU(), nn.Linear(9, 5)
    ),
    "batch statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(36, 5)
    ),
    "hard": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(36, 5)),
    "attention": Attention,
}


def build(name):
    torch.manual_seed(0)
    return NETWORKS[name]().double().train()


def twin(network, images, labels, which, relative, steps, loss=F.cross_entropy):
    """The limit of images `which` by the book: autograd's Jacobian, every entry, one least squares solve a step.

    In `network` dropout must be off and running statistics unused.
    """
    parameters = list(network.parameters())

    def gradients(part):
        whole = images.clone()
        whole[which] = part
        found = torch.autograd.grad(loss(network(whole - 0.5), labels), parameters, create_graph=True)
        return torch.cat([g.flatten() for g in found])

    part = images[which].clone()
    g = gradients(images[which].clone().requires_grad_()).detach()
    jacobian = torch.autograd.functional.jacobian(gradients, part).reshape(len(g), -1)
    sizes = [p.numel() for p in parameters]
    rms = [float(b.square().mean().sqrt()) for b in g.split(sizes)]
    std = torch.cat(
        [torch.full((k,), relative * r if r > 1e-10 * max(rms) else math.inf) for k, r in zip(sizes, rms, strict=True)]
    )
    rows, guess, move = jacobian / std.double()[:, None], torch.full_like(part, 0.5), (part - 0.5).flatten()
    for _ in range(steps):
        spatial, colours = Variation().quadratic(guess)
        precision = torch.block_diag(*[torch.kron(colours, s) for s in spatial])
        root = torch.linalg.cholesky(precision).T
        system, right = torch.cat([rows, root]), torch.cat([rows @ move, torch.zeros(len(root)).double()])
        guess = 0.5 + torch.linalg.lstsq(system, right[:, None], driver="gelsy", rcond=1e-16).solution.reshape(
            part.shape
        )
    covariance = torch.linalg.inv(rows.T @ rows + precision)
    return -10 * (guess - part).square().flatten(1).mean(1).log10(), guess, covariance, rows


class Hard(nn.Module):
    """nn.Hardsigmoid, in operations that have second derivatives."""

    def forward(self, x):
        return (x / 6 + 0.5).clamp(0, 1)


def evaluated(network):
    """Dropout off, batch statistics in use and everything differentiable twice, as the limit takes a network."""
    for name, module in network.named_children():
        if isinstance(module, nn.Hardsigmoid):
            setattr(network, name, Hard())
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
    return network


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "attention"])
@pytest.mark.parametrize(("count", "others"), [(1, "unknown"), (3, "unknown"), (3, "known")])
@pytest.mark.parametrize("relative", [1e-2, 1e-4])
def test_against_autograds_jacobian_and_a_direct_solve(name, count, others, relative):
    images, labels = batch(count)
    network = build(name)
    seen = observe(network, images, labels, mean=0.5)
    options = LimitOptions(
        noise=GradientNoise(relative=relative), rows_per_unknown=1e9, max_reweightings=4, settled=1e-9
    )
    limit = reconstruction_limit(seen, images, labels, others=others, options=options)
    relative = math.hypot(relative, ROUNDING * 2.3e-16, 1e-7)
    network = evaluated(network)
    parts = [range(count)] if others == "unknown" else [[i] for i in range(count)]
    for part in parts:
        part = list(part)
        psnr, guess, covariance, rows = twin(network, images, labels, part, relative, 4)
        assert [limit.psnr[i] for i in part] == pytest.approx(psnr.tolist(), abs=0.01)
        torch.testing.assert_close(limit.images[part], guess, atol=1e-5, rtol=0)
        std = covariance.diagonal().sqrt().reshape(guess.shape)
        torch.testing.assert_close(limit.std[part], std, atol=1e-5, rtol=1e-3)
        gain = (covariance @ rows.T).square().sum(1).reshape(guess.shape)
        error = ((guess - images[part]).square() + gain).flatten(1).mean(1)
        assert [limit.psnr_with_noise[i] for i in part] == pytest.approx((-10 * error.log10()).tolist(), abs=0.05)


def test_rank_and_a_determined_image():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5)).double()
    images, labels = batch()
    limit = reconstruction_limit(observe(network, images, labels), images, labels)
    assert limit.rank == (192,) == (limit.unknowns,)
    assert limit.solved
    assert limit.psnr[0] > limit.psnr_with_noise[0] > 100


def test_fewer_equations_than_unknowns():
    images, labels = batch()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 4, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(18, 5)).double()
    limit = reconstruction_limit(observe(network, images, labels, mean=0.5), images, labels)
    parameters = list(network.parameters())

    def gradients(x):
        loss = F.cross_entropy(network(x - 0.5), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])

    jacobian = torch.autograd.functional.jacobian(gradients, images).flatten(1)
    assert limit.rank == (int(torch.linalg.matrix_rank(jacobian, rtol=1e-9)),)
    assert 12 < limit.psnr[0] < 60


class ByMatrix(Variation):
    """A variation whose operator is its matrix: `stiffness` pulls towards grey by another mean over the pixels."""

    def stiffness(self, image):
        precision = self.around(image).precision()
        return lambda v: (precision @ v.flatten()).reshape(v.shape)


@pytest.mark.parametrize("name", ["strided tanh", "batch statistics"])
@pytest.mark.parametrize("noise", [1e-1, 1e-2])
def test_without_a_jacobian(name, noise):
    images, labels = batch(2)
    seen = observe(build(name), images, labels, mean=0.5)
    settings = dict(noise=GradientNoise(relative=noise), tolerance=1e-4, settled=2e-4, max_reweightings=300)
    dense = reconstruction_limit(seen, images, labels, options=LimitOptions(**settings))
    options = LimitOptions(**settings, max_dense_flops=0)
    free = reconstruction_limit(seen, images, labels, options=options, prior=ByMatrix())
    assert dense.solved
    assert free.solved
    assert free.residual <= 1e-4
    assert free.std is None
    assert free.rank is None
    assert free.psnr == pytest.approx(dense.psnr, abs=0.15)
    assert reconstruction_limit(seen, images, labels, options=options).psnr == pytest.approx(dense.psnr, abs=0.6)


def test_stopped_early_is_at_least():
    images, labels = batch(2)
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    whole = reconstruction_limit(seen, images, labels)
    early = reconstruction_limit(seen, images, labels, options=LimitOptions(max_dense_flops=0, products=30))
    assert not early.solved
    assert early.residual > 0
    assert "30 products" in early.ended
    assert sum(early.psnr) < sum(whole.psnr)


@pytest.mark.parametrize("flops", [0, 1e12])
@pytest.mark.parametrize("others", ["unknown", "known"])
def test_no_time(flops, others):
    images, labels = batch(2)
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    options = LimitOptions(max_dense_flops=flops)
    limit = reconstruction_limit(seen, images, labels, others=others, options=options, budget=Budget(1e-6))
    assert not limit.solved
    assert limit.std is None
    assert "time" in limit.ended
    assert torch.isfinite(limit.images).all()


def test_few_directions_in_memory():
    images, labels = batch(2)
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    options = LimitOptions(noise=GradientNoise(relative=0.1), max_dense_flops=0, products=400)
    plenty = reconstruction_limit(seen, images, labels, options=options)
    tight = LimitOptions(noise=GradientNoise(relative=0.1), max_dense_flops=0, products=400, max_memory_gb=4e-4)
    scarce = reconstruction_limit(seen, images, labels, options=tight)
    assert bytes_needed(plenty.equations, tuple(images.shape)) > 4e5
    assert scarce.psnr == pytest.approx(plenty.psnr, abs=1)


def test_attention_needs_no_fused_second_derivative():
    images, labels = batch()
    limit = reconstruction_limit(observe(build("attention"), images, labels), images, labels)
    assert limit.solved
    assert limit.psnr[0] > 15


def test_others_known_is_no_lower_and_duplicates_are_no_obstacle():
    images, labels = batch(3)
    images[1], labels[1] = images[0], labels[0]
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    known = reconstruction_limit(seen, images, labels, others="known")
    unknown = reconstruction_limit(seen, images, labels)
    assert len(known.rank) == 3
    assert len(unknown.rank) == 1
    assert all(a >= b - 0.5 for a, b in zip(known.psnr, unknown.psnr, strict=True))
    assert unknown.psnr[0] == pytest.approx(unknown.psnr[1], abs=1e-3)


def test_noise_lowers_it_and_random_sums_keep_it():
    torch.manual_seed(0)
    images, labels = batch(1, 6)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 16, 3), nn.Tanh(), nn.Flatten())
    network = nn.Sequential(network, nn.Linear(64, 5)).double()
    seen = observe(network, images, labels, mean=0.5)
    found = []
    for noise in (1e-3, 1e-1, 1e1):
        every, sums = (
            reconstruction_limit(
                seen, images, labels, options=LimitOptions(noise=GradientNoise(relative=noise), rows_per_unknown=k)
            )
            for k in (1e9, 4.0)
        )
        assert sums.equations == 4 * 108 < every.equations
        assert sums.rank == every.rank == (108,)
        assert sums.psnr == pytest.approx(every.psnr, abs=5)
        found.append(every.psnr[0])
    assert found == sorted(found, reverse=True)


def test_noise_in_the_gradients_own_units():
    images, labels = batch()
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    sizes = {name: float(g.square().mean().sqrt()) for name, g in seen.gradients.items()}
    by_name = LimitOptions(noise=GradientNoise(std={name: 0.1 * size for name, size in sizes.items()}))
    relative = LimitOptions(noise=GradientNoise(relative=0.1))
    found = [reconstruction_limit(seen, images, labels, options=o).psnr[0] for o in (by_name, relative)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    with pytest.raises(ValueError, match="no gradient was shared of nothing"):
        reconstruction_limit(seen, images, labels, options=LimitOptions(noise=GradientNoise(std={"nothing": 1.0})))


def test_residual_network_and_another_prior():
    torch.manual_seed(0)
    images, labels = batch(1, 12)
    seen = observe(Residual(nn.ReLU()), images.float(), labels)
    limit = reconstruction_limit(seen, images, labels, prior=MinimumNorm())
    assert limit.solved
    assert limit.settings["prior"] == "MinimumNorm"
    with pytest.raises(ValueError, match="needs"):
        reconstruction_limit(seen, images, labels, prior=MinimumNorm(), options=LimitOptions(max_memory_gb=1e-4))


def test_a_gradient_that_says_nothing():
    class Flat(nn.Linear):
        def forward(self, x):
            return 0 * super().forward(x.flatten(1))

    images, labels = batch()
    limit = reconstruction_limit(observe(Flat(192, 4).double(), images, labels), images, labels)
    assert limit.solved
    assert limit.rank == (0,)
    torch.testing.assert_close(limit.images, torch.full_like(images, 0.5))


def test_what_does_not_fit():
    images, labels = batch(2)
    seen = observe(build("strided tanh"), images, labels)
    with pytest.raises(ValueError, match="need images"):
        reconstruction_limit(seen, images[:1], labels)
    with pytest.raises(ValueError, match="others"):
        reconstruction_limit(seen, images, labels, others="some")
    with pytest.raises(ValueError, match="NaN"):
        reconstruction_limit(seen, images * math.nan, labels)
    with pytest.raises(ValueError, match="negative"):
        GradientNoise(std=-1.0)
    with pytest.raises(ValueError, match="positive"):
        LimitOptions(max_memory_gb=0)


def test_the_global_generator_is_left_alone():
    images, labels = batch()
    seen = observe(build("batch statistics").eval(), draw(*images.shape), labels)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    reconstruction_limit(seen, images, labels, options=LimitOptions(noise=GradientNoise(relative=0.1)))
    assert torch.equal(torch.rand(1), expected)
