"""What mechanisms tell of intervals holds of the true gradient, through factors and noise before them."""

import math

import pytest
import torch

from leakage_audit.defences import (
    Clip,
    Composition,
    GaussianNoise,
    PercentileFilter,
    Prune,
    Quantize,
    Shared,
    Sign,
    SparseVector,
)

torch.manual_seed(0)
G = {"conv.weight": torch.randn(6, 3, 3, 3), "fc.weight": 0.3 * torch.randn(10, 40), "fc.bias": torch.randn(10)}
MECHANISMS = {
    "sign": [Sign()],
    "bare-sign": [Sign(scaled=False)],
    "one-bit": [Quantize(1)],
    "three-bits": [Quantize(3)],
    "pruned": [Prune(0.2)],
    "pruned-by-layer": [Prune(0.2, "layer")],
    "percentile": [PercentileFilter(30, gamma=0.5)],
    "percentile-all-cut": [PercentileFilter(90, gamma=0.01)],
    "percentile-uncut": [PercentileFilter(30, gamma=math.inf)],
    "clipped-sign": [Clip(0.5), Sign()],
    "clipped-bits": [Clip(0.5, "layer"), Quantize(2)],
    "clipped-percentile": [Clip(0.5), PercentileFilter(30, gamma=0.02)],
}


@pytest.mark.parametrize("mechanisms", MECHANISMS.values(), ids=MECHANISMS)
def test_the_gradient_lies_where_it_is_said_to(mechanisms):
    shared = Composition(mechanisms).share(G)
    for name, interval in shared.intervals.items():
        g = (G[name] * shared.scale[name]).double()
        slack = 1e-5 * float(g.abs().max())
        assert torch.all(interval.lower.double() <= g + slack)
        assert torch.all(g <= interval.upper.double() + slack)
        assert not interval.std.any()
        if interval.weights is not None:
            assert float((interval.weights.double() * g).sum()) == pytest.approx(interval.total, rel=1e-5)
    assert set(shared.intervals) == set(G)
    assert any(interval.known.any() for interval in shared.intervals.values())


@pytest.mark.parametrize("mechanism", [Prune(0.2), PercentileFilter(80), PercentileFilter(80, math.inf)],
                         ids=["pruned", "all-cut", "uncut"])  # fmt: skip
def test_one_threshold_bounds_every_parameter_also_one_of_which_nothing_is_kept(mechanism):
    shared = Composition([mechanism]).share(G | {"small.bias": 1e-3 * torch.ones(4)})
    sizes = torch.cat([g.flatten().abs() for g in G.values()] + [1e-3 * torch.ones(4)]).sort().values
    for name, interval in shared.intervals.items():
        zero = shared.gradients[name] == 0
        bound = interval.upper[zero]
        assert torch.all((bound >= sizes[int(0.8 * len(sizes)) - 1]) & (bound <= sizes[int(0.8 * len(sizes)) + 1]))
        signed = ~zero & interval.known  # cut off: beyond the threshold, not only beyond what is shared
        assert torch.all(torch.maximum(interval.lower, -interval.upper)[signed] >= bound.max())


def test_who_knows_has_the_factors_undone_and_who_does_not_has_no_interval():
    from leakage_audit import models, observe

    seen = observe(models.build("cnn3_v1", image_size=12), torch.rand(3, 12, 12), 3)
    shared = Composition([Clip(0.01), Sign()]).share(seen.gradients)
    known = shared.seen_by(seen, knows=True)
    for name, interval in known.intervals.items():
        weighed = (interval.weights * seen.gradients[name]).double().sum()
        assert float(weighed) == pytest.approx(interval.total, rel=1e-4)
    assert not shared.seen_by(seen, knows=False).intervals


def test_noise_before_is_told_and_noise_after_leaves_no_interval():
    before = Composition([GaussianNoise(0.1), Quantize(2)]).share(G)
    assert all(torch.all(i.std == torch.tensor(0.1)) for i in before.intervals.values())
    assert not Composition([Quantize(2), GaussianNoise(0.1)]).share(G).intervals
    assert not Composition([Quantize(2, stochastic=True)]).share(G).intervals  # within two steps, but not evenly


def test_the_sparse_vector_filter_tells_signs_under_its_noise():
    shared = SparseVector(0.5, gamma=1e-3, epsilon_shared=10.0)(Shared.of(G), torch.Generator().manual_seed(0))
    std = math.sqrt(2) * 2e-3 / 10
    for name, interval in shared.intervals.items():
        known = interval.known
        assert known.any()
        assert interval.std[known] == pytest.approx(std)
        off = (interval.lower - G[name]).clamp_min(0) + (G[name] - interval.upper).clamp_min(0)
        assert float(off[known].max()) < 12 * std


def test_names_and_layers_that_are_not_shared_go_with_their_intervals():
    shared = Sign()(Shared.of(G), torch.Generator()).renamed({"fc.bias": "head.bias"})
    assert list(shared.intervals) == ["head.bias"]
    assert list(shared.scaled({"head.bias": 2.0}).intervals) == ["head.bias"]
