"""What a user may change of the solvers; each default with its reason, its figures in docs/method/constants.md."""

from dataclasses import dataclass, field

from leakage_audit.options import Checked


@dataclass(frozen=True)
class StoppingOptions(Checked):
    """When an iteration ends.

    Attributes:
        solved: Root mean square of the residual, targets being 1, that counts as solved; far below what any wrong image
            leaves, and above what the first linearisations err by.
        noise: Or this many standard deviations of the equations' own noise.
        settled: Change of the image (root mean square, of [0, 1]) below which it has settled: half a grey level.
        settled_probed: The same where random probes keep the image moving a little: about a grey level.
        within: Standard deviations, of what kinks leave open, within which probed equations are solved.
        patience: Steps in a row without headway before the iteration stops: random probes make single ones by chance.
        stuck: Share of `settled` below which an image with a residual is stuck: a whole step that is short ends there.
    """

    solved: float = 1e-4
    noise: float = 3.0
    settled: float = 1.5e-3
    settled_probed: float = 3e-3
    within: float = 2.0
    patience: int = 3
    stuck: float = 1.0

    def __post_init__(self) -> None:
        self.check(("solved", "settled", "settled_probed", "within", "patience"), ("noise",), ("stuck",))


@dataclass(frozen=True)
class LinearizationOptions(Checked):
    """How far a linearisation is trusted.

    Attributes:
        first: Error expected of the first linearisation of a smooth network, targets being 1, from grey.
        shrink: A step errs by this share of what the step before it erred, since steps get about half as long.
        reuse: Error below which a Jacobian serves again, a tenth of what counts as solved.
        probes: Perturbations that an estimate on kinked equations averages over: a variance known to a quarter.
        explained: The first probes are as long as would explain this share of the straightest block's residual.
        flat: Root mean square by which probes change a block, targets being 1, below which it does not depend on them.
        pool: Part of an equation's variance that it takes from its block, as few probes may miss its jump.
        widen: Later probes are this much longer than the posterior says, which knows too little of its own errors.
        behind: And at least this share of the last step: while steps are long the image is that wrong.
        perturbations: Images that a linearisation without a Jacobian averages over, there and back in pairs; the cost
            grows in proportion.
    """

    first: float = 0.03
    shrink: float = 0.3
    reuse: float = 1e-5
    probes: int = 32
    explained: float = 0.5
    flat: float = 1e-6
    pool: float = 0.1
    widen: float = 2.0
    behind: float = 0.5
    perturbations: int = 8

    def __post_init__(self) -> None:
        positive = ("first", "shrink", "probes", "explained", "widen", "perturbations")
        self.check(positive, ("reuse", "flat", "pool", "behind"))
        if self.pool > 1:
            raise ValueError(f"LinearizationOptions.pool must be at most 1, got {self.pool}")
        if self.perturbations % 2:
            raise ValueError(f"LinearizationOptions.perturbations must be even, got {self.perturbations}")


@dataclass(frozen=True)
class CGOptions(Checked):
    """Gauss-Newton steps by conjugate gradients, without a Jacobian.

    Attributes:
        trust: Each block is trusted to this share of its residual, as `shrink` does where the error is measured.
        least_trust: Least share: what is trusted more takes more products than are left.
        products: Most products with J and Jᵀ a step: on smooth networks what a thousandth takes.
        exactness: Share of their right-hand side to which the normal equations are solved; a thousandth instead of a
            hundredth gains two decibels at 224 pixels.
        products_averaged: The same for averages over kinks, which are no more exact than that.
        exactness_averaged: Likewise.
        products_known: The same on one image's known inputs alone, at first: while they bend, exact steps lead no
            further (inexact Newton).
        exactness_known: Likewise.
        progress: Least relative decrease of the weighted residual that counts as headway.
        progress_inputs: The same for a batch's known inputs by themselves: what they gain below they gain slowly.
        stopping: Conjugate gradients leave a thousandth of the residual (`solved`) and make steps that are short on
            purpose (`stuck`); with no random probes, two idle steps are no accident (`patience`), and each costs up to
            two hundred passes.
    """

    trust: float = 0.3
    least_trust: float = 0.1
    products: int = 100
    exactness: float = 1e-3
    products_averaged: int = 40
    exactness_averaged: float = 1e-2
    products_known: int = 8
    exactness_known: float = 0.1
    progress: float = 0.01
    progress_inputs: float = 0.05
    stopping: StoppingOptions = field(default_factory=lambda: StoppingOptions(solved=1e-3, patience=2, stuck=0.1))

    def __post_init__(self) -> None:
        positive = ("trust", "least_trust", "products", "products_averaged", "products_known")
        self.check(positive, ("progress", "progress_inputs"), ("exactness", "exactness_averaged", "exactness_known"))


@dataclass(frozen=True)
class UnitOptions(Checked):
    """Steps that weigh each unit's equations by their own residual, where equations with kinks are not solved.

    Attributes:
        turns: Most of them, each with switches before and rounded kinks after it; 0 for none of the three.
        patience: Steps in a row that find no better residual before a turn ends: single ones lead away.
        settled: Change of the image (root mean square) below which a turn ends: the last kinks take short steps.
    """

    turns: int = 2
    patience: int = 6
    settled: float = 1e-6

    def __post_init__(self) -> None:
        self.check(("patience", "settled"), ("turns",))


@dataclass(frozen=True)
class SwitchOptions(Checked):
    """Steps on an image and its network's undecided switches together, where equations with kinks are not solved.

    Attributes:
        rounded: Steps with rounded kinks before.
        sigma: Standard deviation of the image (of [0, 1]) with which they begin: what rounded kinks end at, and more.
        probes: Images by which a switch's odds are told: its standard deviation to an eighth.
        least: Variance of a switch from which it is undecided: three standard deviations.
        most: Undecided switches that are unknowns, the most undecided ones.
        relinearizations: Linear models a step, each in image and switches where the last one led: jumps bend.
        bends: Error of such a model, in units of the equations' noise, at which the next one is not asked for.
        rounds: Of propagation at each of them.
        damping: Share of the way that a round goes.
        first: Share of the residual that the first model is taken to miss.
        shrink: Share of what the last model missed that the next one is taken to miss.
        keep: Standard deviation of the image after a step, in units of its change.
        widen: And at least so many of those that the model tells, which knows nothing of wrong switches.
        gain: Least relative decrease of the residual that counts as headway.
        patience: Steps in a row that find no better residual before it ends.
        window: Standard deviation of the sum of a window's switches, which is one.
        plenty: Equations an unknown, undecided switches being unknowns.
    """

    rounded: int = 8
    sigma: float = 0.03
    probes: int = 32
    least: float = 1e-3
    most: int = 800
    relinearizations: int = 2
    bends: float = 1.0
    rounds: int = 6
    damping: float = 0.5
    first: float = 0.3
    shrink: float = 0.3
    keep: float = 0.5
    widen: float = 1.5
    gain: float = 0.05
    patience: int = 3
    window: float = 1e-3
    plenty: float = 1.5

    def __post_init__(self) -> None:
        positive = ("rounded", "sigma", "probes", "relinearizations", "rounds", "keep", "widen", "patience", "window")
        self.check(
            (*positive, "plenty"),
            ("most", "bends", "first", "shrink"),
            ("least", "damping", "gain"),
        )


@dataclass(frozen=True)
class PropagationOptions(Checked):
    """How Gaussians are found that stand for intervals (expectation propagation).

    Attributes:
        rounds: At each linearisation; twice as many gain a tenth of a decibel for half as much time again.
        damping: Share of the way that a round goes: all of them at once overshoot.
        steps: Most linearisations.
        floor: Least standard deviation of an equation, targets being 1.
    """

    rounds: int = 3
    damping: float = 0.7
    steps: int = 25
    floor: float = 1e-4

    def __post_init__(self) -> None:
        self.check(positive=("rounds", "steps", "floor"), share=("damping",))


@dataclass(frozen=True)
class SolverOptions(Checked):
    """The Gauss-Newton iteration, with and without a Jacobian.

    Attributes:
        floor: Least standard deviation of an equation, targets being 1: its square is the last that normal equations
            hold in float64.
        blobs: Standard deviation of the start where grey tells nothing: half a photograph's.
        alike: Relative difference of two images' slopes at grey up to which nothing tells them apart there.
        shares: Of a step, that are tried until the residual does not grow.
        rank_tolerance: Singular values below this share of the largest count as zero: a Gram matrix tells none smaller.
        jitters: Shares of the mean added to a diagonal until rounding leaves it positive: from float64's rounding on.
        least_trust: Where the noise is known, the least share of its variance by which equations are weighed: a prior
            that holds the residual above what is expected is weakened (discrepancy principle) no further than this.
        trust_pace: Power of the misfit by which it is weakened a step: all residuals together follow slowly.
        trust_chance: A block whose mean square exceeds one by more than this many of its standard deviations gets a
            share of its own.
        trust_settled: Relative change of that share below which it has settled.
        rough: Relative error, in the norm of the system, to which a batch's step is solved by the last one's factor.
        products_by_old_factor: Most products for that; what takes more is factored anew.
        fewest: On equations with kinks the Jacobian must fit so many times into the time left after the first, and
            steps after the first step, or the iteration gives way to what needs less time.
        stopping: When the iteration with a Jacobian ends.
        switches: Equations with kinks, their undecided switches being unknowns.
        by_unit: Equations with kinks whose units are weighed by themselves.
        linearization: How far linearisations are trusted.
        cg: What differs without a Jacobian.
        propagation: What differs where entries lie in intervals.
    """

    floor: float = 1e-7
    blobs: float = 0.1
    alike: float = 1e-9
    shares: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    rank_tolerance: float = 1e-6
    jitters: tuple[float, ...] = (1e-15, 1e-13, 1e-11, 1e-9)
    least_trust: float = 0.02
    trust_pace: float = 2.0
    trust_chance: float = 2.0
    trust_settled: float = 0.1
    rough: float = 1e-6
    products_by_old_factor: int = 12
    fewest: int = 0
    stopping: StoppingOptions = field(default_factory=StoppingOptions)
    switches: SwitchOptions = field(default_factory=SwitchOptions)
    by_unit: UnitOptions = field(default_factory=UnitOptions)
    linearization: LinearizationOptions = field(default_factory=LinearizationOptions)
    cg: CGOptions = field(default_factory=CGOptions)
    propagation: PropagationOptions = field(default_factory=PropagationOptions)

    def __post_init__(self) -> None:
        self.check(
            ("floor", "blobs", "trust_settled", "trust_pace", "rough"),
            ("alike", "jitters", "trust_chance", "fewest", "products_by_old_factor"),
            ("shares", "rank_tolerance", "least_trust"),
        )
