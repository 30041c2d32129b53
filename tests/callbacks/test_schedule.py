import pytest

from leakage_audit.callbacks.schedule import Schedule


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_first_and_every_nth_step_are_due():
    schedule = Schedule(4)
    assert [step for step in range(13) if schedule.due(step)] == [0, 4, 8, 12]


@pytest.mark.parametrize("n", [0, -1])
def test_an_interval_below_one_is_refused(n):
    with pytest.raises(ValueError, match=f"every_n_steps must be at least 1, got {n}"):
        Schedule(n)


def test_an_overhead_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_overhead must be positive"):
        Schedule(1, max_overhead=0.0)


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_audits_keep_to_their_share_of_the_training_time(share):
    clock = Clock()
    schedule = Schedule(1, max_overhead=share, clock=clock)
    audits = 0
    for step in range(1000):
        if schedule.due(step):
            with schedule.timing():
                clock.now += 5.0
            audits += 1
        clock.now += 1.0
    assert audits == schedule.audits
    assert schedule.passed_over == 1000 - audits
    # The first audit is free; from then on the share holds to within one audit.
    assert 0 <= share * 1000 - 5 * audits < 2 * 5


def test_an_audit_that_raises_counts_as_well():
    clock = Clock()
    schedule = Schedule(1, max_overhead=0.1, clock=clock)

    def fails():
        with schedule.timing():
            clock.now += 5.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert schedule.audits == 1
    assert not schedule.due(1)


def test_an_audit_is_expected_to_cost_as_much_as_the_dearest():
    clock = Clock()
    schedule = Schedule(1, max_overhead=1.0, clock=clock)
    for seconds in (5.0, 1.0):
        with schedule.timing():
            clock.now += seconds
    clock.now += 10.5  # spent are 6: another second would do, another five would not
    assert not schedule.affordable()
    clock.now += 0.5
    assert schedule.affordable()


def test_the_time_before_the_start_is_no_training_and_its_audits_cost_nothing():
    clock = Clock()
    schedule = Schedule(1, max_overhead=1.0, clock=clock)
    with schedule.timing():
        clock.now += 5.0
    clock.now += 100.0
    schedule.start()
    clock.now += 4.9
    assert not schedule.affordable()
    clock.now += 0.1
    assert schedule.affordable()


def test_a_clock_decides_only_on_scheduled_steps_under_a_limit():
    assert [step for step in range(5) if Schedule(2, max_overhead=0.1).clocked(step)] == [0, 2, 4]
    assert not Schedule(2).clocked(0)


def test_steps_that_are_not_scheduled_are_not_passed_over():
    schedule = Schedule(2)
    assert [schedule.due(step) for step in range(4)] == [True, False, True, False]
    assert schedule.passed_over == 0
