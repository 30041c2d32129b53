import os
import signal
import subprocess
import sys

import pytest

from leakage_audit.callbacks import schedule
from leakage_audit.callbacks.awake import Suspensions
from leakage_audit.callbacks.schedule import Schedule


class Times:
    now, used = 0.0, 0.0

    def passed(self, now, used):
        self.now += now
        self.used += used


def watch():
    times = Times()
    return times, Suspensions(clock=lambda: times.now, worked=lambda: times.used)


def test_an_idle_gap_is_a_suspension():
    times, found = watch()
    for now, used in ((0.25, 0.0), (300.0, 0.01), (0.25, 0.25)):
        times.passed(now, used)
        found.look()
    assert found.seconds == 300.0


def test_a_long_call_or_a_slow_machine_is_none():
    times, found = watch()
    for now, used in ((60.0, 59.0), (0.9, 0.0), (60.0, 20.0)):
        times.passed(now, used)
        found.look()
    assert found.seconds == 0.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops itself by a signal")
def test_a_stopped_process_notices_when_it_goes_on():
    wake = [sys.executable, "-c", f"import os, time; time.sleep(2); os.kill({os.getpid()}, {int(signal.SIGCONT)})"]
    with Suspensions(gap=0.5) as found, subprocess.Popen(wake):
        os.kill(os.getpid(), signal.SIGSTOP)
    assert found.seconds > 0.5


def test_an_audit_does_not_cost_what_it_was_suspended(monkeypatch):
    class Stopped(Suspensions):
        def __exit__(self, *error):
            super().__exit__(*error)
            self.seconds = 300.0

    now = [0.0]
    monkeypatch.setattr(schedule, "Suspensions", Stopped)
    found = Schedule(1, max_overhead=0.5, clock=lambda: now[0])
    with found.timing():
        now[0] += 301.0
    now[0] += 3.9
    assert not found.affordable()  # the 300 seconds are no training either
    now[0] += 0.1
    assert found.affordable()
