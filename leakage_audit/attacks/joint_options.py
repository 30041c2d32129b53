"""What a user may change of Joint; each default with its reason, its figures in docs/method/constants.md."""

from dataclasses import dataclass, field

from leakage_audit.attacks.ending import EndingOptions
from leakage_audit.equations.autograd import AutogradOptions
from leakage_audit.equations.base import EquationOptions
from leakage_audit.equations.batch_separation import SeparationOptions
from leakage_audit.equations.count_sketch import SketchOptions
from leakage_audit.equations.hidden_separation import HiddenSeparationOptions
from leakage_audit.equations.interval_equations import IntervalOptions
from leakage_audit.equations.layer_peeling import PeelingOptions
from leakage_audit.equations.network_recovery import NetworkRecoveryOptions
from leakage_audit.equations.pooled_image import PooledImageOptions
from leakage_audit.options import Checked
from leakage_audit.solvers.frozen_statistics import FrozenOptions
from leakage_audit.solvers.options import SolverOptions


@dataclass(frozen=True)
class JointOptions(Checked):
    """Tolerances and limits of Joint.

    Attributes:
        rounding_units: Relative error of a gradient's entry, in units of its type's rounding: it is a sum of many
            rounded terms.
        largest_work: Numbers that the passes of one Jacobian may keep; beyond, it takes minutes on a few cores.
        preparation: Share of a single image's time in which its equations must be ready to be solved: what is left
            suffices for a first-order recipe otherwise.
        unexplained: Share of grey's residual above which a solution has explained nothing, so that a first-order recipe
            is asked what it finds.
        fewest: Steps on a single image's equations with kinks that must fit into its time after the first: what fewer
            find a first-order recipe finds sooner.
        warm_start_steps: First-order steps before a solution without a Jacobian on networks with kinks; most of what
            such a recipe finds it has by then.
        pinned: Standard deviation below which an entry counts as pinned: half a grey level of eight bits.
        matched: Relative distance of the gradients at which an image that a layer gave away counts as the right one.
        equations: How equations are linearised and their kinks looked for.
        sketch: How many of the equations are kept.
        peeling: When a chain's layer is solved by itself.
        recovery: How a network is recovered from where its images are known.
        below_pooling: How an image below known maxima is searched, to begin there.
        autograd: Which gradients of any other network are taken for rounding.
        separation: How a batch is taken apart at the last layer.
        hidden: When it counts as taken apart at a hidden one.
        ending: When it has succeeded.
        intervals: Which entries are asked that are known to lie in intervals.
        frozen: How images below batch statistics are found at statistics that are held still.
        solver: When a solve ends, and how far it trusts its linearisations.

    >>> JointOptions(rounding_units=2.0).rounding_units  # gradients known to two units of their type's rounding
    2.0
    """

    rounding_units: float = 4.0
    largest_work: float = 3e10
    preparation: float = 0.6
    unexplained: float = 0.5
    fewest: int = 2
    warm_start_steps: int = 500
    pinned: float = 0.5 / 255
    matched: float = 0.01
    equations: EquationOptions = field(default_factory=EquationOptions)
    sketch: SketchOptions = field(default_factory=SketchOptions)
    peeling: PeelingOptions = field(default_factory=PeelingOptions)
    recovery: NetworkRecoveryOptions = field(default_factory=NetworkRecoveryOptions)
    below_pooling: PooledImageOptions = field(default_factory=PooledImageOptions)
    autograd: AutogradOptions = field(default_factory=AutogradOptions)
    separation: SeparationOptions = field(default_factory=SeparationOptions)
    hidden: HiddenSeparationOptions = field(default_factory=HiddenSeparationOptions)
    ending: EndingOptions = field(default_factory=EndingOptions)
    intervals: IntervalOptions = field(default_factory=IntervalOptions)
    frozen: FrozenOptions = field(default_factory=FrozenOptions)
    solver: SolverOptions = field(default_factory=SolverOptions)

    def __post_init__(self) -> None:
        positive = ("rounding_units", "largest_work", "warm_start_steps", "pinned", "matched", "unexplained")
        self.check(positive, not_negative=("fewest",), share=("preparation",))
