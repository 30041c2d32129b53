import pytest
import torch
from threadpoolctl import threadpool_info

from leakage_audit.threads import single_blas


def blas():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def broken():
    with single_blas():
        assert set(blas()) == {1}
        raise RuntimeError("on purpose")


def test_the_threads_are_as_before_afterwards_also_when_it_fails():
    before, torchs = blas(), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="on purpose"):
        broken()
    assert blas() == before
    with single_blas():
        assert torch.get_num_threads() == torchs
