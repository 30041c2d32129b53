import random

import numpy as np
import pytest
import torch

from leakage_audit.callbacks.capture.rng_isolation import isolated


def draw():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]  # noqa: NPY002


def seeded():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)


@pytest.mark.parametrize("raises", [None, RuntimeError, KeyboardInterrupt])
def test_streams_modes_and_defaults_are_as_before(raises):
    seeded()
    expected = draw()
    seeded()
    with torch.no_grad():
        try:
            with isolated():
                assert torch.is_grad_enabled()
                draw()
                torch.manual_seed(7)
                torch.set_default_dtype(torch.float64)
                if raises:
                    raise raises
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert not torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert draw() == expected


def test_gradients_flow_inside_inference_mode():
    weight = torch.ones(2, requires_grad=True)
    with torch.inference_mode(), isolated():
        (gradient,) = torch.autograd.grad((weight * weight).sum(), weight)
    assert gradient.tolist() == [2.0, 2.0]
