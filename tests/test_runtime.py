import pytest
import torch
from threadpoolctl import threadpool_info

from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime, single_blas


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


class Clock(Budget):
    """A clock that is set by hand."""

    now = 0.0

    @property
    def spent(self):
        return self.now


class TestClock:
    def test_a_share_is_of_what_is_left_and_carries_the_rest_on(self):
        budget = Clock(10.0, memory_gb=3.0)
        budget.now = 4.0
        half = budget.share(0.5)
        assert half.seconds == pytest.approx(3.0)
        assert half.memory == 3e9
        assert Budget().share(0.5).seconds is None

    def test_no_step_is_begun_that_will_not_fit_and_that_is_no_end_of_its_own(self):
        budget = Clock(10.0)
        for _ in budget.steps(5, "walking"):
            budget.now += 4.0
        assert budget.now == 8.0
        assert not budget.exhausted
        assert budget.stopped

    def test_work_that_took_long_is_foreseen(self):
        budget = Clock(10.0)
        with budget.work(2, "passes"):
            budget.now = 4.0
        with pytest.raises(OutOfTime), budget.share().work(6, "passes"):
            raise AssertionError
        with budget.share().work(2, "passes"):
            pass
        assert not budget.stopped

    def test_time_is_kept_back_for_what_follows(self):
        budget = Clock(10.0)
        assert budget.sparing(3, "passes").seconds == pytest.approx(10.0)  # none was met yet
        with budget.work(2, "passes"):
            budget.now = 4.0
        assert budget.sparing(2, "passes").seconds == pytest.approx(2.0)
        budget.foresee(3, "passes")
        for ask in (budget.foresee, budget.sparing):
            with pytest.raises(OutOfTime):
                ask(4, "passes")

    def test_an_operation_too_long_to_be_interrupted_is_not_begun(self):
        budget = Budget(1.0)
        budget.require("little", flops=1e3)
        with pytest.raises(OutOfTime, match="the time is up for much"):
            budget.require("much", flops=1e16)
        assert budget.stopped

    def test_nor_one_too_large(self):
        Budget().require("anything", memory=1e15)
        with pytest.raises(OutOfMemory, match="J needs about 3 GB of memory; max_memory_gb = 2 allows less"):
            Budget(memory_gb=2.0).require("J", memory=3e9)

    def test_a_signal_ends_it(self):
        told = []
        budget = Budget(cancelled=lambda: bool(told))
        assert not budget.exhausted
        told.append("SIGTERM")
        assert budget.exhausted
        assert budget.share().exhausted
        assert list(budget.steps(3, "walking")) == []
