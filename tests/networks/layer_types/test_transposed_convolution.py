"""A layer type that came last: everything that the engine does with it, against dense matrices and autograd."""

from math import prod

import numpy as np
import pytest
import torch
from cases import draw, layer_of, system_of
from torch import nn

from leakage_audit.attacks import RGAP, Hybrid, Joint
from leakage_audit.equations.input_from_gradient import Reader, solve_for_input
from leakage_audit.layerwise.block_cholesky import BlockCholesky, weight_gram_blocks
from leakage_audit.layerwise.factorization import Factor
from leakage_audit.layerwise.gram import gram_matrix, identities
from leakage_audit.measures.architecture import inspect_network
from leakage_audit.measures.security import security_metric
from leakage_audit.measures.structural import structural_rank
from leakage_audit.networks.layer_types import TransposedConvolution
from leakage_audit.observation import observe
from leakage_audit.scores.metrics import score

SIZE = (4, 5)
LAYERS = {
    "plain": dict(in_channels=2, out_channels=3, kernel_size=3, bias=False),
    "upsampling": dict(in_channels=3, out_channels=2, kernel_size=4, stride=2, padding=1),
    "stride beyond kernel": dict(in_channels=2, out_channels=3, kernel_size=2, stride=3),
    "cut off": dict(in_channels=2, out_channels=3, kernel_size=1, padding=1),
    "output padding": dict(in_channels=2, out_channels=2, kernel_size=3, stride=2, output_padding=1),
    "one filter": dict(in_channels=3, out_channels=1, kernel_size=2, bias=False),
    "grouped, dilated": dict(
        in_channels=4, out_channels=6, kernel_size=(3, 2), stride=(2, 1), dilation=(1, 2), groups=2
    ),
}
each = pytest.mark.parametrize("settings", LAYERS.values(), ids=LAYERS)


def module(settings):
    torch.manual_seed(0)
    return nn.ConvTranspose2d(**settings).double()


def dense(module, layer, dz):
    """u by pushing unit vectors through the module and its autograd gradient."""
    columns = []
    for unit in torch.eye(prod(layer.in_shape), dtype=torch.float64):
        z = module(unit.reshape(1, *layer.in_shape)) - (0 if module.bias is None else module.bias[:, None, None])
        (gradient,) = torch.autograd.grad(z, module.weight, dz, retain_graph=True)
        columns.append(torch.cat([z.detach().flatten(), gradient.flatten()]))
    return torch.stack(columns, 1)


@each
def test_the_system_is_that_of_the_module(settings):
    net = module(settings)
    system, x = system_of(net, SIZE)
    assert isinstance(system.layer, TransposedConvolution)
    u = dense(net, system.layer, system.dz)
    torch.testing.assert_close(torch.from_numpy(system.matrix()), u, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(system.apply(x), u @ x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(system.apply(x), system.v, rtol=1e-12, atol=1e-12)
    y = draw(system.equations, seed=3)
    torch.testing.assert_close(system.adjoint(y), u.T @ y, rtol=1e-12, atol=1e-12)


@each
def test_gram_matrices_and_identities(settings):
    system, _ = system_of(module(settings), SIZE)
    u = system.matrix()
    expected = u.T @ u if system.equations >= system.n else u @ u.T
    np.testing.assert_allclose(gram_matrix(system, 1.0), expected, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(identities(system, 1.0).T @ u, 0, atol=1e-11)
    w = system.weight_matrix().toarray()
    order = np.arange(system.n).reshape(system.layer.in_shape).transpose(1, 2, 0).ravel()
    gram = (w.T @ w)[np.ix_(order, order)] + 0.1 * np.eye(system.n)
    diagonal, below = weight_gram_blocks(system)
    unread = ~w.any(0)[order]
    gram[unread, unread] = 1.1
    shifted = BlockCholesky([block + 0.1 * np.eye(len(block)) for block in diagonal], below)
    y = np.random.default_rng(0).standard_normal(system.n)
    np.testing.assert_allclose(shifted.solve(y), np.linalg.solve(gram, y), rtol=1e-8, atol=1e-10)


@each
def test_rank_and_pseudo_inverse(settings):
    system, _ = system_of(module(settings), SIZE)
    u = torch.from_numpy(system.matrix())
    factor, found = Factor(system), structural_rank(system.layer)
    rank = int(torch.linalg.matrix_rank(u, rtol=1e-9))
    assert factor.rank == rank == found.rank
    assert rank <= system.layer.rank_bound(shared=True).rank
    assert found.read == int(u.any(0).sum())
    expected = torch.linalg.pinv(u, rtol=1e-9) @ system.v
    torch.testing.assert_close(factor.pseudo_inverse(system.v), expected, rtol=1e-8, atol=1e-8)


@each
def test_pixels_that_outputs_read(settings):
    layer = layer_of(module(settings), SIZE)
    w = layer.weight_matrix(layer.weight.detach()).toarray().reshape(*layer.out_shape, *layer.in_shape) != 0
    for axis in (0, 1):
        near = w.any(axis=(0, 2 - axis, 3, 5 - axis))  # places along the output's axis × along the input's
        for place, pixels in enumerate(near):
            assert layer.reads(axis, {place}) == set(np.flatnonzero(pixels).tolist())


@each
def test_behind_another_input(settings):
    layer = layer_of(module(settings), SIZE)
    rebuilt, expected = layer.rebuilt((layer.in_shape[0], 6, 7)), layer_of(module(settings), (6, 7))
    assert (rebuilt.out_shape, rebuilt.weight.shape) == (expected.out_shape, expected.weight.shape)


def test_its_input_from_the_gradient_alone():
    net = module(LAYERS["plain"])
    system, x = system_of(net, SIZE)
    found = solve_for_input([Reader(net, system.dz, system.gradient)], system.layer.in_shape, 1e-16)[0]
    torch.testing.assert_close(found.value.flatten(), x, rtol=1e-6, atol=1e-6)


def network(upsampling=LAYERS["upsampling"], features=2 * 8 * 8):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.Tanh(), nn.ConvTranspose2d(6, upsampling["out_channels"], 4, 2, 1), nn.Tanh()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 5)).double()


def see(out_channels=8):
    image = 0.5 + 0.1 * draw(1, 3, 8, 8)
    net = network(dict(out_channels=out_channels), out_channels * 144)
    return image, observe(net, image, 2, mean=0.5)


def test_c_of_m_and_the_table_of_shapes():
    _, seen = see()
    found, shapes = security_metric(seen), inspect_network(seen.network, (3, 8, 8))
    assert found.c == shapes.c == 0
    assert [layer.rank for layer in found.layers] == [layer.rank for layer in shapes.layers] == [192, 216]


@pytest.mark.parametrize("attack", [RGAP(), Joint(), Hybrid("constrained")], ids=lambda attack: attack.name)
def test_attacks(attack):
    image, seen = see()
    found = attack(seen)
    assert found.succeeded
    assert score(found.images, image).psnr[0] > 100


def test_what_it_leaves_open_is_left_to_the_prior():
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(3, 1, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(81, 5)).double()
    image = 0.5 + 0.1 * draw(1, 3, 8, 8)
    seen = observe(net, image, 2, mean=0.5)
    assert security_metric(seen).c == 81 + 12 - 1 - 192
    found = Joint()(seen)
    assert found.details["rank"] == 92
