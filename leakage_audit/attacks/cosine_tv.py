"""CosineTV: descend on the angle between gradients plus total variation (Geiping et al. 2020), in three recipes."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.ending import EndingOptions, Settling
from leakage_audit.attacks.recipes import DECAYS, DISTANCES, PRESETS, SIGNS, STARTS, VARIATIONS, Recipe
from leakage_audit.equations.base import relative_error_of
from leakage_audit.equations.batch_separation import SeparatedBatch, separate_batch
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.matching.objective import Candidates
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.runtime import Budget, OverBudget


class CosineTV(Attack):
    """Adam on the cosine distance of gradients plus total variation; needs nothing but a differentiable classifier.

    Minimises `distance(∂L/∂p(x), g) + tv · TV(x) + features · mean (f(x) − f)²` over all images of the batch at once,
    the last term where the last layer gives each image's own features away (`separate_batch` of several), and returns
    the best iterate by this objective, which is also the reconstruction's `residual`. Settings that are not given come
    from the preset's `Recipe`. It makes all its steps and has converged if the objective settled.

    Args:
        preset: `paper` (what the authors ran), `original` (Geiping et al.'s own recipe) or `modern` (the strongest
            published first-order recipe).
        iterations: Adam steps a start.
        restarts: Number of starts.
        lr: Adam's step size at its highest.
        tv: Weight of the variation.
        seed: Of the random starts.
        recipe: All of it, in place of the preset's.
        ending: When the objective has settled.
        in_time: Whether step sizes and signs run their whole course where the time ends before the steps do.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> seen = observe(models.build("cnn2_v1", image_size=12), torch.rand(3, 12, 12), 3)
        >>> CosineTV(iterations=2)(seen).images.shape
        torch.Size([1, 3, 12, 12])

    Raises:
        ValueError: If there is no such preset, or a number is out of its range.
    """

    name: ClassVar[str] = "cosine_tv"
    choice = "preset"

    def __init__(
        self,
        preset: str = "modern",
        iterations: int | None = None,
        restarts: int | None = None,
        lr: float | None = None,
        tv: float | None = None,
        seed: int = 0,
        recipe: Recipe | None = None,
        ending: EndingOptions | None = None,
        in_time: bool = False,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        given: dict[str, Any] = {"iterations": iterations, "restarts": restarts, "lr": lr, "tv": tv}
        self.recipe = replace(
            recipe or PRESETS[preset], **{name: value for name, value in given.items() if value is not None}
        )
        self.preset, self.seed, self.ending = preset, seed, ending or EndingOptions()
        self.iterations, self.restarts = self.recipe.iterations, self.recipe.restarts
        self.lr, self.tv, self.in_time = self.recipe.lr, self.recipe.tv, in_time

    def objective(self, seen: Observation, x: Tensor) -> float:
        """What `reconstruct` minimises, at the network's inputs `x (B, C, H, W)`."""
        seen = seen.to(torch.promote_types(seen.dtype, torch.float32))
        value, _ = _Objective(self.recipe, seen, labels_for(seen)[0])(x.to(seen.device, seen.dtype))
        return value.item()

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Run every start and keep the best iterate."""
        return self.descend(seen, budget, known=self._told_apart(seen, budget))

    def _told_apart(self, seen: Observation, budget: Budget) -> SeparatedBatch | None:
        """Features of each image of a batch, where they are certain and go with the labels granted."""
        if not self.recipe.features or seen.batch_size == 1 or seen.noise or not seen.class_targets:
            return None
        relative_error = relative_error_of(seen.dtype)
        with suppress(OverBudget, ValueError), in_double_precision(seen, budget) as exact:
            found = separate_batch(exact, relative_error, budget.share(self.recipe.separation))
            if found is not None and (seen.labels is None or torch.equal(found.labels, seen.labels)):
                return found
        return None

    def descend(
        self,
        seen: Observation,
        budget: Budget,
        begin: Tensor | None = None,
        known: SeparatedBatch | None = None,
    ) -> Found:
        """The same, or from an image that another recipe found.

        Args:
            seen: What leaked.
            budget: Time limit and progress report.
            begin: Where every start begins, `(B, C, H, W)` in the network's input space; by default as the recipe does.
            known: Features of each image of a batch, with their labels.
        """
        recipe = self.recipe
        seen = seen.to(torch.promote_types(seen.dtype, torch.float32))  # half precision is too coarse to descend in
        labels, inferred = labels_for(seen)
        labels = labels if known is None else known.labels
        budget.check()
        objective = _Objective(recipe, seen, labels, budget, known)
        low, high = (seen.to_input(labels.new_full((1, 1, 1, 1), edge, dtype=seen.dtype)) for edge in seen.value_range)
        generator = torch.Generator().manual_seed(self.seed)
        shape, total = (seen.batch_size, *seen.input_shape), recipe.iterations * recipe.restarts
        steps = budget.steps(total, f"CosineTV ({self.preset})")
        best, settled = _Best(), True
        for start in range(recipe.restarts):
            began, own = budget.spent, budget.left / (recipe.restarts - start)
            settling = Settling(recipe.iterations, self.ending)
            first = STARTS[recipe.start](shape, generator, recipe) if begin is None else begin.detach().clone()
            x = first.to(seen.device, seen.dtype)
            best.offer(x, float("inf"), float("inf"))
            adam = torch.optim.Adam([x.requires_grad_()], lr=recipe.lr)
            for step, _ in zip(range(recipe.iterations), steps, strict=False):  # the range first: it takes no step
                done = step / recipe.iterations
                if self.in_time:
                    done = max(done, min((budget.spent - began) / own, 1 - 1 / recipe.iterations))
                value, distance = objective(x)
                if not torch.isfinite(value):
                    break
                best.offer(x, value.item(), distance.item())
                settling(value.item())
                (gradient,) = torch.autograd.grad(value, x)
                x.grad = SIGNS[recipe.sign](gradient, done)
                adam.param_groups[0]["lr"] = recipe.lr * DECAYS[recipe.decay](done, recipe)
                adam.step()
                if recipe.boxed:
                    with torch.no_grad():
                        x.clamp_(low, high)
            settled = settled and settling.settled
        next(steps, None)  # lets the budget report the end
        return Found(
            x=best.x,
            converged=settled,
            ended=f"{best.offers - recipe.restarts} of {total} steps, gradients at cosine distance {best.distance:.2g}",
            residual=best.value,
            details={"labels": labels, "labels_inferred": inferred, "cosine_distance": best.distance},
        )


class _Objective:
    """The recipe's objective at a candidate, with the cosine distance that is part of it."""

    def __init__(
        self,
        recipe: Recipe,
        seen: Observation,
        labels: Tensor,
        budget: Budget | None = None,
        known: SeparatedBatch | None = None,
    ) -> None:
        self.recipe, self.labels, self.candidates = recipe, labels, Candidates(seen, budget)
        # Of several images the last layer tells averages over the batch, which would pull all of them to one mean.
        last = last_layer(seen) if recipe.features and seen.batch_size == 1 else None
        leaked = None if last is None else last.features
        self.features = None if leaked is None else leaked[labels]
        if known is not None:
            self.features = known.features.to(seen.dtype)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gradients = self.candidates.gradients(x, self.labels)
        distance = DISTANCES[self.recipe.distance](gradients, self.candidates.targets)
        value = distance + self.recipe.tv * VARIATIONS[self.recipe.variation](x, self.recipe)
        features = self.candidates.features
        if self.features is not None and features is not None and features.shape == self.features.shape:
            value = value + self.recipe.features * (features - self.features).square().mean()
        return value, distance


class _Best:
    """The candidate with the lowest objective so far."""

    def __init__(self) -> None:
        self.x, self.value, self.distance, self.offers = torch.empty(0), float("inf"), float("inf"), 0

    def offer(self, x: Tensor, value: float, distance: float) -> None:
        """Keep a copy of `x` if its objective is the lowest, or if there is none yet."""
        self.offers += 1
        if value < self.value or not self.x.numel():
            self.x, self.value, self.distance = x.detach().clone(), value, distance
