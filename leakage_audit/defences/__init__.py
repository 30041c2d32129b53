"""Defences: what a client does to a gradient before it shares it. One file a mechanism, one protocol (`base`)."""

from leakage_audit.defences.base import Composition, DefenceError, Mechanism
from leakage_audit.defences.clip import Clip
from leakage_audit.defences.clip_per_sample import ClipPerSample
from leakage_audit.defences.noise import GaussianNoise, LaplaceNoise
from leakage_audit.defences.partial_sharing import PartialSharing
from leakage_audit.defences.percentile import PercentileFilter
from leakage_audit.defences.prune import Prune
from leakage_audit.defences.quantize import Quantize
from leakage_audit.defences.shared import Shared
from leakage_audit.defences.sign import Sign
from leakage_audit.defences.sparse_vector import SparseVector

__all__ = [
    "Clip", "ClipPerSample", "Composition", "DefenceError", "GaussianNoise", "LaplaceNoise", "Mechanism",
    "PartialSharing", "PercentileFilter", "Prune", "Quantize", "Shared", "Sign", "SparseVector",
]  # fmt: skip
