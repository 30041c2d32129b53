"""Watch, while a network trains, how much of its training images the gradients give away."""

from leakage_audit import attacks
from leakage_audit.measures.security import Security, security_metric
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation, observe
from leakage_audit.scores.metrics import Scores, score

__all__ = ["Observation", "Scores", "Security", "UnreadableNetwork", "attacks", "observe", "score", "security_metric"]
