import sys
from pathlib import Path

import pytest
from fits import Grey, fit
from lightning import Callback

from leakage_audit.callbacks import LeakageAudit


def resident():
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


class Watch(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, *_):
        self.seen.append(resident())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("gradient", ["sample", "step"])
def test_a_hundred_audits_need_no_more_memory_than_twenty(tmp_path, gradient):
    watch = Watch()
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], gradient=gradient, samples=1, limit=0)
    fit(tmp_path, audit, watch, max_steps=100)
    assert audit.latest.optimizer_step == 99
    assert watch.seen[-1] < 1.05 * watch.seen[20]
