import pytest
import torch
from threadpoolctl import threadpool_info

from leakage_audit.runtime import Budget, single_blas


def test_without_a_limit_every_step_is_taken_and_reported():
    told = []
    assert list(Budget(report=lambda what, done: told.append((what, done))).steps(4, "walking")) == [0, 1, 2, 3]
    assert told == [("walking", 0.0), ("walking", 0.25), ("walking", 0.5), ("walking", 0.75), ("walking", 1.0)]


def test_no_step_is_taken_after_the_limit():
    budget = Budget(seconds=1e-9)
    assert budget.exhausted
    assert list(budget.steps(4, "walking")) == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_must_be_positive(seconds):
    with pytest.raises(ValueError, match="seconds must be positive"):
        Budget(seconds)


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
