"""Watch, while a network trains, how much of its training images the gradients give away."""

import importlib
from typing import Any

from leakage_audit import attacks
from leakage_audit.measures.security import Security, security_metric
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation, observe
from leakage_audit.scores.metrics import Scores, score

__all__ = [
    "Observation",
    "Scores",
    "Security",
    "UnreadableNetwork",
    "attacks",
    "observe",
    "score",
    "security_metric",
    "watch",  # noqa: F822 (below)
]


def __getattr__(name: str) -> Any:
    """`watch`, for loops without a Trainer, by its name: the engine imports nothing of the callbacks."""
    if name == "watch":
        return importlib.import_module("leakage_audit.callbacks.watch").watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
