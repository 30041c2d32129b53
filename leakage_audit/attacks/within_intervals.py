"""Where entries lie in intervals: the image that agrees best with those."""

from contextlib import suppress

from leakage_audit.equations.interval_equations import IntervalEquations, IntervalOptions, likely_labels
from leakage_audit.observation import Observation
from leakage_audit.priors import Prior, under_noise
from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime
from leakage_audit.solvers.gauss_newton import Solution
from leakage_audit.solvers.interval_gauss_newton import interval_gauss_newton
from leakage_audit.solvers.options import SolverOptions


def within_intervals(
    seen: Observation, found: Solution, prior: Prior, relative_error: float, memory: float, budget: Budget,
    options: SolverOptions, asked: IntervalOptions,
) -> Solution:  # fmt: skip
    """The solution that agrees best with the intervals: `found`, or one that takes them for what they are.

    Args:
        seen: What leaked of one image, in float64, with its `intervals`; without any, `found` it is.
        found: What was found where they count as noise.
        prior: What images are like.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        memory: Bytes that Jacobian and normal equations may take.
        budget: Time limit.
        options: Tolerances.
        asked: Which entries.
    """
    if not seen.intervals:
        return found
    tried: list[tuple[float, Solution]] = []
    with suppress(ValueError, FloatingPointError, OutOfTime, OutOfMemory):  # there is one solution all the same
        labels = likely_labels(seen, asked.sure)
        for left, label in zip(range(len(labels), 0, -1), labels, strict=True):
            share = budget.share(1 / left)
            equations = IntervalEquations(seen, relative_error, asked, share, label)
            m, n = len(equations.noise), found.image.numel()
            share.require("the intervals' normal equations", 8 * (6 * m * n + 3 * min(m, n) ** 2))
            tried.append((equations.outside(equations.evaluate(found.image)), found))
            again = interval_gauss_newton(equations, under_noise(prior), memory, share, None, options)
            tried.append((equations.outside(again.r), again))
    return min(tried, key=lambda pair: pair[0])[1] if tried else found
