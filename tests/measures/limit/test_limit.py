import math

import pytest
import torch
import torch.nn.functional as F
from limit_networks import NETWORKS, batch, build
from torch import nn

from leakage_audit.equations.base import relative_error_of
from leakage_audit.measures.limit import GradientNoise, LimitOptions, NumericsOptions, reconstruction_limit
from leakage_audit.observation import observe
from leakage_audit.priors import TotalVariation


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
        spatial, colours = TotalVariation().quadratic(guess)
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
        noise=GradientNoise(relative=relative),
        rows_per_unknown=1e9,
        max_reweightings=4,
        settled=1e-9,
        hidden=0.0,  # nothing is granted
        numerics=NumericsOptions(rough=1e-10),
    )
    limit = reconstruction_limit(seen, images, labels, others=others, options=options)
    relative = math.hypot(relative, relative_error_of(torch.float64), 1e-7)
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
