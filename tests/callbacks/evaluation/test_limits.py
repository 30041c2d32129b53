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
    ("norm", "training"),
    [
        (nn.Identity(), True),
        (nn.BatchNorm2d(4), False),
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4, track_running_stats=False), False),
    ],
)
def test_where_a_batch_is_normalised_by_its_own_statistics_its_limit_is_no_grey_picture(norm, training):
    """To first order no gradient knows the contrast there, but an attack can take an ordinary one."""
    images, labels = torch.rand(2, 3, 6, 6), torch.tensor([1, 3])
    seen = observe(network(norm).train(training), images, labels, mean=0.5)
    for found in measure_limits(seen, images, labels, Budget()):
        assert found.solved
        # Noise has nothing that a prior likes: what is known of it is known from the gradient.
        assert float((found.image - 0.5).std() / (images - 0.5).std()) > 0.5
