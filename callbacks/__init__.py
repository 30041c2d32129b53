"""Callbacks for Lightning's trainer; the repository's `callbacks/`, installed as `leakage_audit.callbacks`."""

from leakage_audit.callbacks.audit import LeakageAudit
from leakage_audit.callbacks.dashboard import LeakageDashboard
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.evaluation.results import Audit
from leakage_audit.callbacks.gate import LeakageGate, LeakageLimitExceeded
from leakage_audit.callbacks.output.progress_bar import OneLineProgressBar
from leakage_audit.callbacks.private_training import PrivateTraining
from leakage_audit.callbacks.watch import Watch, watch

__all__ = [
    "Audit",
    "GradientDefence",
    "LeakageAudit",
    "LeakageDashboard",
    "LeakageGate",
    "LeakageLimitExceeded",
    "OneLineProgressBar",
    "PrivateTraining",
    "Watch",
    "watch",
]
