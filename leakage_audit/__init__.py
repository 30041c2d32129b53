"""Watch, while a network trains, how much of its training images the gradients give away."""

from leakage_audit import attacks
from leakage_audit.network import UnreadableNetwork
from leakage_audit.observation import Observation, observe
from leakage_audit.scores import Scores, score
from leakage_audit.security import Security, security_metric

__all__ = ["Observation", "Scores", "Security", "UnreadableNetwork", "attacks", "observe", "score", "security_metric"]
