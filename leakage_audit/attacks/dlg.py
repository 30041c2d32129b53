"""DLG (Zhu et al. 2019, "Deep leakage from gradients"): L-BFGS on the squared distance of gradients."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.ending import EndingOptions, Settling
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.matching.objective import Candidates, relative_distance, squared_distance
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget, OutOfTime

HISTORY = 100  # steps that L-BFGS remembers, each with its gradient
VECTORS = 12  # what else it holds of the images' size


@dataclass(frozen=True)
class Recipe(Checked):
    """One way to run DLG.

    Attributes:
        iterations: Calls of L-BFGS, each of up to 20 steps.
        joint: Whether the labels are recovered together with the images, as softmax probabilities; labels that were
            granted are taken as given.
        start: Standard deviation of the first candidate.
        distance: What is minimised, a name of `DISTANCES`.
        line_search: Whether a step's length is searched for (strong Wolfe); without, each step is taken as it is.
        fill: Whether pixels that no gradient reaches are taken from their nearest neighbours at the end.
    """

    iterations: int
    joint: bool
    start: float
    distance: str
    line_search: bool
    fill: bool

    def __post_init__(self) -> None:
        self.check(positive=("iterations", "start"))
        if self.distance not in DISTANCES:
            raise ValueError(f"Recipe.distance must be one of {', '.join(DISTANCES)}, got {self.distance!r}")


DISTANCES: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]] = {
    "squared": squared_distance,
    "relative": relative_distance,
}
PRESETS = {
    # What the authors of the paper ran as a baseline: the label is known. It often diverges.
    "paper": Recipe(300, False, 1.0, "squared", False, False),
    # Zhu et al.'s own.
    "original": Recipe(300, True, 1.0, "squared", False, False),
    # The same idea, made to converge: every tensor counts alike, a search along each step, a start near grey. The label
    # is not sought: beside one that is wrong at first, the images run off to where nothing brings them back.
    "scaled": Recipe(300, False, 0.1, "relative", True, True),
}


class DLG(Attack):
    """L-BFGS on the distance of gradients from a normal start; the best iterate by this distance counts.

    Works on any classifier that can be differentiated twice, in float64. `residual` is the preset's distance; it has
    converged once that has settled, in the last tenth of the iterations or for as many as `patience`. There is no prior
    on images: what the gradients leave open stays as the start had it.

    Args:
        preset: `paper` (what the authors ran), `original` (the label recovered jointly) or `scaled` (made to
            converge). A preset that recovers labels needs a loss that takes probabilities in place of classes, as
            cross entropy does.
        iterations: Calls of L-BFGS, each of up to 20 steps; by default the preset's.
        seed: Of the start.
        patience: Iterations without a better iterate after which none is expected.
        recipe: All of it, in place of the preset's.
        ending: When the distance has settled.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> seen = observe(models.build("cnn2_v1", image_size=12), torch.rand(3, 12, 12), 3)
        >>> DLG("scaled", iterations=1)(seen).images.shape
        torch.Size([1, 3, 12, 12])

    Raises:
        ValueError: If there is no such preset, or there are no iterations.
    """

    name: ClassVar[str] = "dlg"
    choice = "preset"

    def __init__(
        self,
        preset: str = "original",
        iterations: int | None = None,
        seed: int = 0,
        patience: int = 10,
        recipe: Recipe | None = None,
        ending: EndingOptions | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        self.preset, self.seed, self.patience, self.ending = preset, seed, patience, ending or EndingOptions()
        recipe = recipe or PRESETS[preset]
        self.recipe = recipe if iterations is None else replace(recipe, iterations=iterations)
        self.iterations = self.recipe.iterations

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Descend until the steps are done, the time is up, or nothing gets better."""
        memory = 8 * (2 * HISTORY + VECTORS) * seen.batch_size * math.prod(seen.input_shape)
        with in_double_precision(seen, budget) as exact, budget.holding("the memory of L-BFGS", memory):
            return self._descended(exact, budget)

    def _descended(self, seen: Observation, budget: Budget) -> Found:
        """In float64: near the solution the distance is lost in float32's rounding."""
        recipe = self.recipe
        budget.check()
        guess = _Guess(recipe, seen, torch.Generator().manual_seed(self.seed), budget)
        lbfgs = torch.optim.LBFGS(
            guess.unknowns, tolerance_grad=0, tolerance_change=0, history_size=HISTORY,
            line_search_fn="strong_wolfe" if recipe.line_search else None,
        )  # fmt: skip
        settling, stalled = Settling(self.iterations, self.ending), False
        first = float("nan")
        ended, best_before, since = f"all {self.iterations} iterations done", float("inf"), 0
        for _ in budget.steps(self.iterations, f"DLG ({self.preset})"):
            try:
                value = lbfgs.step(guess.distance)
            except OutOfTime:  # within a step, which evaluates many times
                ended = "the time was up"
                break
            since = 0 if guess.best_value < best_before else since + 1
            best_before = guess.best_value
            settling(guess.best_value)
            first = value if math.isnan(first) else first
            if not torch.isfinite(value) or since == self.patience:
                stalled = bool(value <= first)
                ended = "nothing got better any more" if stalled else "it diverged"
                break
        else:
            if budget.stopped:
                ended = "the time was up"
        x, labels = guess.best
        apart = squared_distance(guess.candidates.gradients(x, labels), guess.candidates.targets).sqrt()
        relative = (apart / torch.cat([g.flatten() for g in guess.candidates.targets]).norm()).item()
        return Found(
            x=_filled(x, guess.start) if recipe.fill else x,
            converged=stalled or settling.settled,
            ended=f"{ended}, gradients apart by {relative:.2g} of their length",
            residual=guess.best_value,
            details={"labels": labels.argmax(1) if guess.joint else labels, "labels_inferred": guess.inferred},
        )


class _Guess:
    """Images, and the labels too where the recipe seeks them, with the best seen so far."""

    def __init__(self, recipe: Recipe, seen: Observation, generator: torch.Generator, budget: Budget) -> None:
        self.recipe, self.candidates, self._budget = recipe, Candidates(seen, budget), budget
        shape = (seen.batch_size, *seen.input_shape)
        self.start = recipe.start * torch.randn(shape, generator=generator, dtype=seen.dtype).to(seen.device)
        self.unknowns = [self.start.clone().requires_grad_()]
        self.joint = recipe.joint and seen.labels is None
        if self.joint:
            classes = self.candidates.network(self.start).shape[1]
            logits = torch.randn(seen.batch_size, classes, generator=generator, dtype=seen.dtype)
            self.unknowns.append(logits.to(seen.device).requires_grad_())
            self.inferred = True
        else:
            self.known_labels, self.inferred = labels_for(seen)
        self.best, self.best_value = (self.start, self.labels.detach()), float("inf")

    @property
    def labels(self) -> Tensor:
        """Probabilities `(B, classes)` where the labels are sought, else classes `(B,)`."""
        return self.unknowns[1].softmax(1) if self.joint else self.known_labels

    def distance(self) -> Tensor:
        """The recipe's distance at the present guess; leaves its gradient where L-BFGS looks for it.

        Raises:
            OutOfTime: If there is not enough of it for as long as that took last.
        """
        x, labels = self.unknowns[0], self.labels
        with self._budget.work(kind="a distance of gradients and its derivative"):
            value = DISTANCES[self.recipe.distance](self.candidates.gradients(x, labels), self.candidates.targets)
            for p, gradient in zip(self.unknowns, torch.autograd.grad(value, self.unknowns), strict=True):
                p.grad = gradient
        if value < self.best_value:
            self.best, self.best_value = (x.detach().clone(), labels.detach().clone()), value.item()
        return value.detach()


def _filled(x: Tensor, start: Tensor) -> Tensor:
    """Give pixels that have not moved at all, in no image and no channel, the value of the nearest one that has."""
    unread = (x == start).all(0).all(0).cpu().numpy()
    if unread.all() or not unread.any():
        return x
    rows, columns = distance_transform_edt(unread, return_distances=False, return_indices=True)
    return x[..., torch.from_numpy(rows), torch.from_numpy(columns)]
