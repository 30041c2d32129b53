"""The time is kept to a pass: with a clock that passes through the network move, no attack overstays by more than one.

The bound is that of the benchmark (`benchmarks/limits_kept.py`), 20 % and one second, where a pass takes a second.
"""

from contextlib import suppress

import pytest
import torch
from ticking import Clock, Ticks
from torch import nn

from leakage_audit import observe
from leakage_audit.attacks import DLG, CosineTV, Joint
from leakage_audit.measures.limit import reconstruction_limit
from leakage_audit.runtime import OutOfTime

BATCH, SECONDS = 24, 6.0


@pytest.fixture(autouse=True)
def _midnight():
    Clock.now[0] = 0.0


def step(kind):
    torch.manual_seed(0)
    act = nn.ReLU if kind == "rectifiers" else nn.Tanh
    network = nn.Sequential(
        Ticks(BATCH), nn.Conv2d(3, 6, 3), act(), nn.Conv2d(6, 6, 3), act(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 10),
    )  # fmt: skip
    images, labels = torch.rand(BATCH, 3, 8, 8), torch.arange(BATCH) % 10
    seen = observe(network, images, labels, grant_labels=True)
    Clock.now[0] = 0.0
    return seen, images, labels


@pytest.mark.parametrize("kind", ["rectifiers", "smooth"])
@pytest.mark.parametrize(
    "attack",
    [Joint(), Joint(max_memory_gb=1e-3), CosineTV(iterations=10**6), DLG(iterations=10**6)],
    ids=["joint", "joint without a Jacobian", "cosine_tv", "dlg"],
)
def test_an_attack_on_a_whole_step_ends_in_time(attack, kind):
    seen, _, _ = step(kind)
    budget = Clock(SECONDS)
    with suppress(OutOfTime):
        attack(seen, budget)
    assert budget.stopped
    assert Clock.now[0] <= 1.2 * SECONDS + 1


@pytest.mark.parametrize("others", ["unknown", "known"])
def test_so_does_the_limit(others):
    seen, images, labels = step("smooth")
    budget = Clock(SECONDS)
    try:
        found = reconstruction_limit(seen, images, labels, others=others, budget=budget)
    except OutOfTime:
        pass
    else:
        assert not found.solved or Clock.now[0] <= SECONDS
    assert Clock.now[0] <= 1.2 * SECONDS + 1
