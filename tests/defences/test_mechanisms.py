"""Each mechanism against an oracle of a few lines that shares no code with it."""

import math

import numpy as np
import pytest
import torch

from leakage_audit.defences import (
    Clip,
    ClipPerSample,
    Composition,
    DefenceError,
    GaussianNoise,
    LaplaceNoise,
    Mechanism,
    PartialSharing,
    PercentileFilter,
    Prune,
    Quantize,
    Shared,
    Sign,
    SparseVector,
)

torch.manual_seed(0)
G = {"conv.weight": torch.randn(6, 3, 3, 3), "fc.weight": 0.3 * torch.randn(10, 40), "fc.bias": torch.randn(10)}
FLAT = torch.cat([g.flatten() for g in G.values()]).double().numpy()


def flat(found):
    return torch.cat([g.flatten() for g in found.values()]).double().numpy()


def share(*mechanisms, draw=0, gradients=G):
    return Composition(mechanisms).share(gradients, draw)


def test_clipping_as_a_whole_and_by_layer():
    assert flat(share(Clip(0.5)).gradients) == pytest.approx(FLAT * 0.5 / np.linalg.norm(FLAT), rel=1e-6)
    by_layer = share(Clip(2.0, "layer")).gradients
    for name, g in G.items():
        assert by_layer[name].norm() == pytest.approx(min(2.0, float(g.norm())), rel=1e-6)


@pytest.mark.parametrize(
    ("mechanism", "std", "kurtosis"), [(GaussianNoise(0.3), 0.3, 3), (LaplaceNoise(0.3), 0.3 * 2**0.5, 6)]
)
def test_noise_has_its_distribution_and_says_its_size(mechanism, std, kurtosis):
    shared = share(mechanism, gradients={"w": torch.full((400, 500), 2.0)})
    error = shared.gradients["w"].double() - 2
    assert error.std() == pytest.approx(std, rel=0.01)
    assert (error**4).mean() / error.var() ** 2 == pytest.approx(kurtosis, rel=0.05)
    assert torch.all(shared.error["w"] == np.float32(std))


@pytest.mark.parametrize("share_kept", [0.01, 0.3, 0.9])
def test_pruning_keeps_the_largest(share_kept):
    shared = share(Prune(share_kept))
    kept = np.argsort(-np.abs(FLAT))[: math.ceil(share_kept * len(FLAT))]
    expected = np.zeros_like(FLAT)
    expected[kept] = FLAT[kept]
    assert flat(shared.gradients) == pytest.approx(expected)
    sizes = flat({name: torch.where(shared.error[name] > 0, g, torch.nan) for name, g in G.items()})
    assert np.array_equal(np.isnan(sizes), expected != 0)
    for name, g in G.items():
        out = shared.gradients[name] == 0
        assert not out.any() or shared.error[name][out] == pytest.approx(float(g[out].square().mean().sqrt()))
    for g in share(Prune(share_kept, "layer")).gradients.values():
        assert int((g != 0).sum()) == math.ceil(share_kept * g.numel())


def test_the_percentile_filter_is_numpys_percentile_and_clip():
    shared = share(PercentileFilter(60, gamma=0.8))
    cut = np.percentile(np.abs(FLAT), 60)
    expected = np.clip(np.where(np.abs(FLAT) < cut, 0, FLAT), -0.8, 0.8)
    assert flat(shared.gradients) == pytest.approx(expected)
    assert np.array_equal(flat(shared.error) == 0, (np.abs(FLAT) >= cut) & (np.abs(FLAT) <= 0.8))


def test_the_sparse_vector_filter_shares_a_fraction_with_laplace_noise():
    gradients = {"w": torch.randn(20000)}
    shared = share(SparseVector(0.2, epsilon=1e6, epsilon_shared=40.0, gamma=1.0, tau=0.5), gradients=gradients)
    g, out = gradients["w"], shared.gradients["w"]
    sent = out != 0
    assert int(sent.sum()) <= 4000
    assert g[sent].abs().min() > 0.498  # the noise of so large an ε chooses nothing wrong
    inside = sent & (out.abs() < 1) & (g.abs() < 0.7)  # far from where it is cut off
    assert (out - g)[inside].abs().mean() == pytest.approx(2 / 40, rel=0.1)  # Laplace of scale 2γ/ε₃
    assert shared.error["w"][inside].unique() == pytest.approx(2**0.5 * 2 / 40)
    assert out.abs().max() <= 1
    assert shared.error["w"][~sent] == pytest.approx(float(g[~sent].square().mean().sqrt()))


def test_the_sparse_vector_filter_of_2022_sends_leftovers_in_clear():
    gradients = {"w": torch.randn(2000)}
    shared = share(SparseVector(0.1, clear_leftovers=True), gradients=gradients)
    clear = (shared.gradients["w"] == gradients["w"]) & (gradients["w"].abs() > 1e-5)
    assert 0.2 < clear.float().mean() < 0.95  # far more than the fraction, exactly as they were
    assert not (share(SparseVector(0.1), gradients=gradients).gradients["w"].abs() > 1e-5).any()


def test_signs():
    shared = share(Sign())
    for name, g in G.items():
        assert torch.equal(shared.gradients[name].sign(), g.sign())
        assert torch.allclose(shared.gradients[name].abs(), g.abs().mean())
    assert set(flat(share(Sign(scaled=False)).gradients).round(6)) <= {-1.0, 0.0, 1.0}
    normal = torch.randn(100000)
    signs = share(Sign(), gradients={"w": normal})
    assert (signs.gradients["w"] - normal).std() == pytest.approx(float(signs.error["w"][0]), rel=0.02)


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("stochastic", [False, True])
def test_quantisation(bits, stochastic):
    shared = share(Quantize(bits, stochastic))
    for name, g in G.items():
        step = float(g.max() - g.min()) / (2**bits - 1)
        off = (shared.gradients[name] - g).abs().max()
        assert off <= step * (1 if stochastic else 0.5) * 1.0001
        assert len(shared.gradients[name].unique()) <= 2**bits
    long = {"w": torch.rand(100000)}
    found = share(Quantize(bits, stochastic), gradients=long)
    assert (found.gradients["w"] - long["w"]).std() == pytest.approx(float(found.error["w"][0]), rel=0.02)


def test_partial_sharing():
    assert list(share(PartialSharing("head")).gradients) == ["fc.weight", "fc.bias"]
    assert list(share(PartialSharing(drop=["fc.*"])).gradients) == ["conv.weight"]
    lora = {"a.lora_A.weight": torch.ones(1), "a.base.weight": torch.ones(1)}
    assert list(share(PartialSharing("lora"), gradients=lora).gradients) == ["a.lora_A.weight"]
    with pytest.raises(DefenceError, match="keeps none of conv"):
        share(PartialSharing("nothing.*"))


def test_per_sample_clipping_is_what_a_loop_does():
    samples = {name: torch.stack([g, 0.01 * g, -2 * g]) for name, g in G.items()}
    shared = ClipPerSample(1.0).reduce(samples)
    norm = np.linalg.norm(FLAT)
    expected = (FLAT / norm + 0.01 * FLAT * min(1, 1 / (0.01 * norm)) - FLAT / norm) / 3
    assert flat(shared.gradients) == pytest.approx(expected, abs=1e-7)
    assert shared.per_image.tolist() == pytest.approx([1 / norm, 1.0, 0.5 / norm])


OFF = [Clip(math.inf), Clip(1e9), Clip(1e9, "layer"), ClipPerSample(math.inf), GaussianNoise(0.0), LaplaceNoise(0.0),
       Prune(1.0), PercentileFilter(0.0, math.inf), PartialSharing("*")]  # fmt: skip


@pytest.mark.parametrize("mechanism", OFF, ids=lambda one: type(one).__name__)
def test_off_is_bit_identical(mechanism):
    shared = share(mechanism)
    assert all(torch.equal(shared.gradients[name], g) for name, g in G.items())
    assert not any(e.any() for e in shared.error.values())


def test_order_counts():
    first, last = share(Clip(1.0), GaussianNoise(1.0)), share(GaussianNoise(1.0), Clip(1.0))
    assert np.linalg.norm(flat(first.gradients)) > 10
    assert np.linalg.norm(flat(last.gradients)) == pytest.approx(1)
    assert float(first.error["fc.bias"][0]) == 1.0
    assert float(last.error["fc.bias"][0]) == pytest.approx(last.scale["fc.bias"])


def test_what_is_known_is_true_of_every_composition():
    """The promise itself: shared = scale · gradient + error, of the size that is told, wherever anything is told."""
    wide = {"w": torch.randn(300, 300)}
    for mechanisms in (
        [Clip(1.0, "layer"), GaussianNoise(1e-3)],
        [Prune(0.3), Quantize(8)],
        [Sign(), LaplaceNoise(0.1)],
        [GaussianNoise(0.1), Clip(2.0)],
        [GaussianNoise(0.2), Quantize(3, stochastic=True)],
    ):
        shared = share(*mechanisms, gradients=wide)
        told = shared.error["w"].isfinite()
        off = (shared.gradients["w"] - shared.scale["w"] * wide["w"])[told] / shared.error["w"][told]
        assert off.square().mean() == pytest.approx(1, rel=0.06), mechanisms


def test_draws_differ_and_can_be_drawn_again():
    one, same, other = (share(GaussianNoise(1.0), draw=d).gradients["fc.bias"] for d in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


class Double(Mechanism):
    def __call__(self, shared, generator):
        return shared.scaled(dict.fromkeys(shared.gradients, 2.0))


def drop_negative(gradients):
    return {name: g.clamp(min=0) for name, g in gradients.items()}


def test_anybodys_own_mechanism():
    shared = share(Double(), drop_negative)
    assert flat(shared.gradients) == pytest.approx(np.maximum(2 * FLAT, 0), rel=1e-6)
    assert np.array_equal(flat(shared.error) > 0, FLAT < 0)  # what was put to zero errs by what was taken
    assert "drop_negative" in Composition([Double(), drop_negative]).settings[1]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (lambda g: {k: v.flatten() for k, v in g.items()}, "changes the shape of conv.weight"),
        (
            lambda g: {k: v * float("nan") for k, v in g.items()},
            "returns NaN or infinite values for conv.weight: 162 of its 162 entries, the first of them nan where",
        ),
        (
            lambda g: {"fc.bias": g["fc.bias"] / 0},
            "returns NaN .* for fc.bias: 10 .* the first of them -inf where .* -1.27",
        ),
        (lambda g: None, "must return gradients by name, got NoneType; does it end without a return"),
        (lambda g: {"new": torch.ones(1)}, "must return gradients of conv.weight"),
        (lambda g: {k: 1.0 for k in g}, "changes the shape of conv.weight .* to float"),
    ],
)
def test_a_mechanism_that_breaks_the_gradient_is_named(own, message):
    with pytest.raises(DefenceError, match=f"<lambda> {message}"):
        share(own)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(0.0), "clip must be positive"),
        (lambda: Clip(1.0, "half"), "by must be whole or layer"),
        (lambda: ClipPerSample(-1.0), "bound must be positive"),
        (lambda: GaussianNoise(-0.1), "noise must be at least 0 and finite"),
        (lambda: LaplaceNoise(math.inf), "noise must be at least 0 and finite"),
        (lambda: Prune(1.5), "share must be above 0 and at most 1"),
        (lambda: Prune(0.0), "share must be above 0 and at most 1"),
        (lambda: PercentileFilter(101), "percentile must be at least 0 and at most 100"),
        (lambda: PercentileFilter(10, 0.0), "gamma must be positive"),
        (lambda: SparseVector(fraction=0.0), "fraction must be above 0"),
        (lambda: SparseVector(epsilon=-1.0), "epsilon must be positive"),
        (lambda: Quantize(0), "bits must be a whole number from 1 to 16"),
        (lambda: Quantize(2.5), "bits must be a whole number"),
        (lambda: PartialSharing([]), "keep must name at least one"),
        (lambda: Composition([GaussianNoise(1.0), ClipPerSample(1.0)]), "per-sample clipping must come first"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_in_place_of_a_mechanism_is_refused():
    with pytest.raises(TypeError, match="must be a callable"):
        Composition([Clip])


def test_an_observation_through_a_defence():
    from leakage_audit import models, observe

    seen = observe(models.build("cnn2_v1", image_size=8), torch.rand(3, 8, 8), 3)
    shared = Composition([Clip(0.1), GaussianNoise(0.01)]).share(seen.gradients)
    knows, not_knows = shared.seen_by(seen, True), shared.seen_by(seen, False)
    assert not not_knows.noise
    assert torch.equal(not_knows.gradients["fc.bias"], shared.gradients["fc.bias"])
    off = torch.cat([((knows.gradients[k] - g) / knows.noise[k]).flatten() for k, g in seen.gradients.items()])
    assert off.std() == pytest.approx(1, rel=0.1)
    assert isinstance(shared, Shared)
