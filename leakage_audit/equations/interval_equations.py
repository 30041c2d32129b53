"""A gradient's entries one by one, where each is known to lie in an interval: no sums, which would forget that."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad

from leakage_audit.equations.base import Block, Equations, rms
from leakage_audit.equations.count_sketch import shared_out
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.networks.stateless import graph_size, stateless
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class IntervalOptions(Checked):
    """Which entries are asked.

    Attributes:
        plenty: Entries an unknown; of larger gradients as many are drawn, since an interval tells a bit or two.
        seed: Of the draw.
        sure: Standard deviations by which the derivative of a label's score must be negative for no other to be tried.
        unit: Least unit of how far an entry is off its interval, targets being 1.
    """

    plenty: float = 4.0
    seed: int = 0
    sure: float = 3.0
    unit: float = 0.03

    def __post_init__(self) -> None:
        self.check(positive=("plenty", "sure", "unit"), not_negative=("seed",))


class IntervalEquations(Equations):
    """Entries of one image's gradient, then the sums of entries that are known.

    Args:
        seen: What leaked, in float64, with its `intervals`.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        options: Which entries are asked.
        budget: Limits of time and memory; none by default.
        label: Of the image `(1,)`; inferred by default.

    Attributes:
        lower: Of each residual, `(m,)`: −∞ where there is no bound.
        upper: Likewise.
        bounded: Which equations have a bound, `(m,)`; of all others `noise` tells how far they are off.

    Raises:
        ValueError: If labels are needed and cannot be inferred.
    """

    def __init__(
        self, seen: Observation, relative_error: float, options: IntervalOptions = IntervalOptions(),
        budget: Budget | None = None, label: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._network, self._unit = stateless(seen.network), options.unit
        self._labels = labels_for(seen)[0] if label is None else label
        generator = torch.Generator().manual_seed(options.seed)
        self._parameters = {n: p.detach() for n, p in self._network.named_parameters() if n in seen.gradients}
        count = options.plenty * seen.batch_size * torch.Size(seen.input_shape).numel()
        told = {name: self._told(seen, name) for name in self._parameters}
        kept = shared_out([len(places) for places in told.values()], int(count))
        self._places = {
            name: places[torch.randperm(len(places), generator=generator)[:k].sort().values.to(places.device)]
            for (name, places), k in zip(told.items(), kept, strict=True)
        }
        blocks, lower, upper = [], [], []
        for name, places in self._places.items():
            target = seen.gradients[name].flatten()[places]
            noise = seen.noise[name].to(target).flatten()[places] if name in seen.noise else torch.zeros_like(target)
            exact = relative_error * rms(seen.gradients[name])
            low, high = torch.full_like(target, -torch.inf), torch.full_like(target, torch.inf)
            if name in seen.intervals:
                known = seen.intervals[name]
                mask = known.known.to(target.device).flatten()[places]
                noise = torch.where(mask, known.std.to(target).flatten()[places], noise)
                low = torch.where(mask, known.lower.to(target).flatten()[places] - target, low)
                high = torch.where(mask, known.upper.to(target).flatten()[places] - target, high)
            blocks.append(Block(name, target, noise.hypot(noise.new_tensor(exact))))
            lower.append(low)
            upper.append(high)
        self._sums = {
            name: one.weights.to(seen.device, seen.dtype)
            for name, one in seen.intervals.items()
            if one.weights is not None and one.total and name in self._parameters
        }
        for name, weights in self._sums.items():
            total = weights.new_tensor([seen.intervals[name].total])
            known_std = seen.intervals[name].std.to(weights)
            noise = (weights * known_std).norm()[None].hypot(relative_error * total.abs())
            blocks.append(Block(f"sum of {name}", total, noise))
            lower.append(torch.full_like(total, -torch.inf))
            upper.append(torch.full_like(total, torch.inf))
        super().__init__(seen, blocks, budget)
        scales = torch.cat(
            [b.target.new_full((n,), s) for b, n, s in zip(blocks, self.sizes, self._scales, strict=True)]
        )
        scales = torch.where(scales > 0, scales, 1.0)  # a block of zeros has no size of its own
        self.lower, self.upper = torch.cat(lower) * scales, torch.cat(upper) * scales
        self.bounded = self.lower.isfinite() | self.upper.isfinite()

    @staticmethod
    def _told(seen: Observation, name: str) -> Tensor:
        """Places of a parameter's entries of which something is known."""
        noise = seen.noise.get(name)
        known = torch.ones(seen.gradients[name].numel(), dtype=torch.bool, device=seen.device)
        if noise is not None:
            known = noise.to(seen.device).flatten().isfinite()
        return known.nonzero()[:, 0]

    @property
    def memory_estimate(self) -> int:
        """Every module's output and every gradient, forth and back twice."""
        image = torch.full(self.shape, GREY).to(self.noise)
        return graph_size(self._network, lambda: self._network(self.seen.to_input(image)), self._parameters.values())

    def values(self, image: Tensor) -> list[Tensor]:
        """Entries and sums of the gradient that training on `image (1, C, H, W)` would share."""
        x = self.seen.to_input(image)

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return self.seen.loss(functional_call(self._network, parameters, (x,)), self._labels)

        found = grad(loss)(self._parameters)
        entries = [found[name].flatten()[places] for name, places in self._places.items()]
        return entries + [(weights * found[name]).sum()[None] for name, weights in self._sums.items()]

    def outside(self, r: Tensor) -> float:
        """Root mean square of how far residuals are off: outside their interval, or from zero where there is none."""
        off = torch.where(self.bounded, (self.lower - r).clamp_min(0) + (r - self.upper).clamp_min(0), r)
        return rms(off / self.noise.clamp_min(self._unit))


def likely_labels(seen: Observation, sure: float = IntervalOptions.sure) -> list[Tensor]:
    """The labels that one image may have: the inferred one, and the next where the gradient does not tell for sure.

    A label is sure where the derivative of its score is negative whatever the defence did to it.

    Args:
        seen: What leaked of one image.
        sure: Standard deviations of known noise by which it must be negative.

    Raises:
        ValueError: If no labels were granted and the network has no fully connected layer with a gradient to read.
    """
    label, inferred = labels_for(seen)
    last = last_layer(seen)
    if not inferred or last is None or last.delta is None:
        return [label]
    name, place = last.parameter("bias"), int(label)
    highest = float(last.delta[place])
    if name in seen.intervals and bool(seen.intervals[name].known[place]):
        highest = float(seen.intervals[name].upper[place])
    elif name in seen.noise:
        highest += sure * float(seen.noise[name][place])
    if highest <= 0 and float(last.delta[place]) < 0:
        return [label]
    return list(last.delta.argsort()[:2, None])
