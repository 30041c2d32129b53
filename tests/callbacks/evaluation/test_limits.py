"""The limit beside the attacks: when it is one."""

import pytest
import torch
from torch import nn

from leakage_audit import observe
from leakage_audit.callbacks.evaluation.limits import measure_limits
from leakage_audit.runtime import Budget


def network(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    ("norm", "training", "solved"),
    [
        (nn.Identity(), True, True),
        (nn.BatchNorm2d(4), False, True),
        (nn.BatchNorm2d(4), True, False),
        (nn.BatchNorm2d(4, track_running_stats=False), False, False),
    ],
)
def test_where_a_batch_is_normalised_by_its_own_statistics_it_is_no_limit(norm, training, solved):
    """To first order no gradient knows the contrast there, but an attack can take an ordinary one."""
    images, labels = torch.rand(2, 3, 6, 6), torch.tensor([1, 3])
    seen = observe(network(norm).train(training), images, labels, mean=0.5)
    for found in measure_limits(seen, images, labels, Budget()):
        assert found.solved is solved
