import math

import pytest
import torch
from cases import NETWORKS, pictures, system_of
from torch import nn

from leakage_audit.measures.noise import NoiseOptions, _lost, effective_metric
from leakage_audit.measures.security import security_metric
from leakage_audit.models import VARIANTS, build
from leakage_audit.observation import observe

LAYERS = {
    "tall": (nn.Conv2d(2, 9, 3), (7, 8)),
    "wide": (nn.Conv2d(2, 3, 3, 2), (7, 8)),
    "tall, many unknowns": (nn.Conv2d(1, 4, 3, bias=False), (34, 34)),
    "unread inputs": (nn.Conv2d(1, 4, 2, 2, bias=False), (35, 35)),
    "pooling": (nn.AvgPool2d(2), (6, 6)),
}


@pytest.mark.parametrize(("module", "size"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("a", "b"), [(0.3, 0.1), (1e2, 3.0), (2.0, 1e3)])
def test_what_is_lost_against_singular_values(module, size, a, b):
    torch.manual_seed(0)
    system, _ = system_of(module.double(), size)
    u = torch.from_numpy(system.matrix())
    scale = torch.full((system.equations, 1), b, dtype=torch.float64)
    scale[: system.z.numel()] = a
    values = torch.linalg.svdvals(scale * u)
    expected = system.n - float((values**2 / (1 + values**2)).sum())
    assert _lost(system, a, b, NoiseOptions()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["one convolution", "stride", "three linear layers", "modules", "two convolutions, biased"]
)
def test_without_noise_it_is_c(name):
    seen, _ = NETWORKS[name].observe()
    plain, (quiet,) = security_metric(seen), effective_metric(seen, [1e-9])
    assert quiet.c == pytest.approx(plain.c, abs=0.05)
    for layer, row in zip(quiet.layers, plain.layers, strict=True):
        assert layer.effective_rank == pytest.approx(row.rank, abs=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
def test_noise_lowers_it_on_every_variant(variant):
    torch.manual_seed(10)
    seen = observe(build(variant, image_size=14), pictures()[0][:, :28:2, :28:2], 3, mean=0.5)
    found = effective_metric(seen, [1e-2, 1.0])
    assert [f.epsilon for f in found] == [1e-2, 1.0]
    assert 0 >= found[0].c > found[1].c
    assert all(0 <= layer.effective_rank <= layer.unknowns for f in found for layer in f.layers)


@pytest.mark.parametrize("variant", ["cnn2_v2", "cnn3_v2"])
def test_block_by_block_as_layers_too_large_for_a_dense_inverse(variant):
    torch.manual_seed(10)
    seen = observe(build(variant, image_size=14), pictures()[0][:, :28:2, :28:2], 3, mean=0.5)
    dense, blocks = (effective_metric(seen, [1e-2, 1.0], NoiseOptions(few=few)) for few in (1000, 0))
    assert [f.c for f in blocks] == pytest.approx([f.c for f in dense], rel=1e-6)


@pytest.mark.parametrize("epsilon", [0, -1.0, math.nan])
def test_noise_must_be_positive(epsilon):
    seen, _ = NETWORKS["stride"].observe()
    with pytest.raises(ValueError, match="noise levels must be positive"):
        effective_metric(seen, [epsilon])


def test_gradients_that_hold_nothing():
    seen, _ = NETWORKS["stride"].observe(loss=lambda scores, labels: 0 * scores.sum())
    with pytest.raises(ValueError, match="every gradient is zero"):
        effective_metric(seen, [0.1])
