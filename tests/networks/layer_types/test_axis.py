import pytest

from leakage_audit.networks.layer_types.axis import axis


@pytest.mark.parametrize("pixels", [5, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_against_counting(pixels, kernel, stride, padding, dilation):
    windows = (pixels + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if windows < 1:
        pytest.skip("no window fits")
    found = axis(pixels, kernel, stride, padding, dilation)
    reads = {(p, t): stride * p + dilation * t - padding for p in range(windows) for t in range(kernel)}
    assert found.windows == windows
    assert found.read == len({r for r in reads.values() if 0 <= r < pixels})
    assert found.inside == all(0 <= r < pixels for r in reads.values())
    assert sum(found.taps) == kernel
    # Taps of a class read pixels equal modulo the stride.
    assert len(found.taps) == len({dilation * t % stride for t in range(kernel)})


def test_one_tap_of_same_padding_reads_everything():
    assert axis(8, 3, 1, 1, 1).needed == (1,)
    assert axis(8, 3, 1, 0, 1).needed == (3,)


def test_dilation_and_stride():
    assert axis(16, 3, 1, 0, 2).step == 2
    assert axis(16, 4, 2, 0, 2).taps == (4,)
    assert axis(16, 5, 2, 0, 1).taps == (3, 2)
