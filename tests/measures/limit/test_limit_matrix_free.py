import pytest
from limit_networks import batch, build

from leakage_audit.measures.limit import GradientNoise, LimitOptions, reconstruction_limit
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfTime


@pytest.mark.parametrize("name", ["strided tanh", "batch statistics"])
@pytest.mark.parametrize("noise", [1e-1, 1e-2])
def test_without_a_jacobian(name, noise):
    images, labels = batch(2)
    seen = observe(build(name), images, labels, mean=0.5)
    settings = dict(noise=GradientNoise(relative=noise), tolerance=1e-4, settled=2e-4, max_reweightings=300)
    dense = reconstruction_limit(seen, images, labels, options=LimitOptions(**settings))
    options = LimitOptions(**settings, max_dense_flops=0)
    free = reconstruction_limit(seen, images, labels, options=options)
    assert dense.solved
    assert free.solved
    assert free.residual <= 1e-4
    assert free.std is None
    assert free.rank is None
    assert free.psnr == pytest.approx(dense.psnr, abs=0.15)


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
    with pytest.raises(OutOfTime):
        reconstruction_limit(seen, images, labels, others=others, options=options, budget=Budget(1e-6))


def test_few_directions_in_memory():
    images, labels = batch(2)
    seen = observe(build("strided tanh"), images, labels, mean=0.5)
    options = LimitOptions(noise=GradientNoise(relative=0.1), max_dense_flops=0, products=400)
    plenty = reconstruction_limit(seen, images, labels, options=options)
    tight = LimitOptions(noise=GradientNoise(relative=0.1), products=400, max_memory_gb=4e-4)
    scarce = reconstruction_limit(seen, images, labels, options=tight)
    assert scarce.rank is None  # it did not fit
    assert scarce.psnr == pytest.approx(plenty.psnr, abs=1)
