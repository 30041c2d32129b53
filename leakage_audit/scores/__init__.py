"""How close a reconstruction comes to the truth, in numbers and in words."""

from leakage_audit.scores.metrics import PEAK_255, PSNR_CAP, Scores, chance_floor, score

__all__ = ["PEAK_255", "PSNR_CAP", "Scores", "chance_floor", "score"]
