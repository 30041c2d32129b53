"""A batch of any size told apart at a hidden fully connected layer with a bias, followed by a rectifier.

With `x̂_i = [x_i; 1]` the layer's inputs and δ_i the derivatives at its outputs, the gradients of weight and bias are

    Ĝ = Σ_i δ_i x̂_iᵀ,        δ_ij = 0 where image i does not switch on unit j.

Fewer images than classes are not needed, only fewer than units. Two sources of candidates for x̂_i:

- *Peeling* (Shariati & Meybodi 2026): a unit that one image alone switches on has it as its row; certified images are
  subtracted and the search is repeated.
- *Sparsest basis* of what is left (after SPEAR, Dimitrov et al. 2024): the δ_i are the sparsest vectors of Ĝ's column
  space, the x̂_i their dual basis.

A candidate is certified or dropped. Forwarded, it names the units that it does not switch on, and the rows of Ĝ of
these units must not span everything: `Ĝ w = δ_i` with w normal to all of them and `w·x̂_i = 1` (Wedderburn: only such
a term lowers the rank when it is subtracted). For exactly one label the loss must give this δ_i, in all units; where
other labels agree as well the agreement proves nothing.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from leakage_audit.equations.gradient_range import GradientRange, GradientRangeOptions, gradient_range
from leakage_audit.equations.network_above import active, fully_connected_layers, network_above, rectifies
from leakage_audit.equations.sparsest_basis import SparsestBasisOptions, sparsest_basis
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class HiddenSeparationOptions(Checked):
    """When a candidate counts as an image.

    Attributes:
        cut: Standard deviations of noise up to which a row lacks a dimension, or two rows are parallel.
        agrees: Relative error of δ up to which a label agrees; its size must agree as well, since a
            mixture of an image and a little of another has the same direction.
        margin: Factor by which all other labels must be worse: where they are not, the agreement proves nothing.
        min_equations: Least units, as a multiple of the rank, beyond those that the fit itself uses up.
        range: How the gradient's row space is found.
        basis: How the sparsest basis is searched for.
    """

    cut: float = 6.0
    agrees: float = 1e-4
    margin: float = 20.0
    min_equations: float = 1.5
    range: GradientRangeOptions = field(default_factory=GradientRangeOptions)
    basis: SparsestBasisOptions = field(default_factory=SparsestBasisOptions)

    def __post_init__(self) -> None:
        self.check(positive=("cut", "agrees", "margin"), not_negative=("min_equations",))


@dataclass(frozen=True)
class HiddenSeparation:
    """The certified images of a batch at one layer; k of B.

    Attributes:
        layer: Name of the fully connected layer.
        delta: ∂L/∂z of each image at its output, `(k, units)`; L is the batch's average.
        features: Its input of each image, `(k, features)`.
        noise: Standard deviation of the features' entries, `(k,)`.
        labels: The classes that they go with, `(k,)`.
        complete: Whether these are all images of the batch.
    """

    layer: str
    delta: Tensor
    features: Tensor
    noise: Tensor
    labels: Tensor
    complete: bool


def separate_hidden(
    seen: Observation,
    rounding: float,
    options: HiddenSeparationOptions | None = None,
    budget: Budget | None = None,
    max_memory_gb: float = 1.0,
) -> HiddenSeparation | None:
    """Each image's input of a hidden fully connected layer, its δ and its label, from the gradients alone.

    Layers nearest the image are tried first; the one with the most images certified is returned.

    Args:
        seen: What leaked, in float64.
        rounding: Relative rounding of the gradients' own type.
        options: When a candidate counts as an image.
        budget: Time limit.
        max_memory_gb: Memory that candidates may take, beside the gradients.

    Returns:
        None if no hidden layer has a bias, a rectifier and certified images.
    """
    options, budget = options or HiddenSeparationOptions(), budget or Budget()
    best: HiddenSeparation | None = None
    for name in fully_connected_layers(seen.network)[:-1]:
        weight, bias = (seen.gradient_of(name, kind) for kind in ("weight", "bias"))
        above = network_above(seen.network, name)
        if weight is None or bias is None or above is None or not rectifies(above, len(bias), weight):
            continue
        spanned = gradient_range(torch.cat([weight, bias[:, None]], 1), seen.batch_size, rounding, options.range)
        if spanned is None:
            continue
        module = seen.network.get_submodule(name)
        assert isinstance(module, nn.Linear)
        found = _Layer(name, module, above, spanned, seen, rounding, options, budget, max_memory_gb)()
        if found is not None and (best is None or len(found.labels) > len(best.labels)):
            best = found
        if best is not None and best.complete:
            break
    return best


@dataclass
class _Image:
    """A certified image.

    Attributes:
        y: x̂ in the basis of Ĝ's row space, `(rank,)`.
        w: Its normal, Ĝ w = δ and w·y = 1, `(rank,)`.
        delta: δ, `(units,)`.
        label: The one class that agrees.
        noise: Standard deviation of the entries of x̂.
        error: By how much the label's δ misses, in direction and size.
    """

    y: Tensor
    w: Tensor
    delta: Tensor
    label: int
    noise: float
    error: float


class _Layer:
    """The images at one layer."""

    def __init__(
        self,
        name: str,
        module: nn.Linear,
        above: nn.Module,
        spanned: GradientRange,
        seen: Observation,
        rounding: float,
        options: HiddenSeparationOptions,
        budget: Budget,
        memory: float,
    ) -> None:
        self._name, self._module, self._above, self._range, self._seen = name, module, above, spanned, seen
        self._rounding, self._options, self._budget, self._memory = rounding, options, budget, memory
        self._images: list[_Image] = []
        self._settled = 0  # how many of them are subtracted
        self._rows, self._noise = spanned.rows, spanned.noise  # what is left of M, and its noise

    def __call__(self) -> HiddenSeparation | None:
        for _ in self._budget.steps(self._seen.batch_size, "peeling"):
            if not self._certify(self._isolated()):
                break
        if len(self._images) < self._range.rank and not self._budget.exhausted:
            self._certify(self._dual_basis())
            while not self._budget.exhausted and self._certify(self._isolated()):
                pass
        return self._separated() if self._images else None

    def _isolated(self) -> Tensor:
        """Coordinates ŷ of rows that may be one image's, parallel ones once, those of most units first."""
        size = self._rows.norm(dim=1)
        live = (size > 100 * self._noise).nonzero()[:, 0]
        unit = self._rows[live] / size[live, None]
        relative = self._noise[live] / size[live]
        apart = (1 - (unit @ unit.T).square()).clamp_min(0).sqrt()
        near = apart < 1e-7 + self._options.cut * (relative[:, None] + relative) * self._range.rank**0.5
        order = (
            (near.sum(1) - relative / relative.max().clamp_min(1e-300)).argsort(descending=True) if len(live) else live
        )
        left, found = torch.ones(len(live), dtype=torch.bool, device=live.device), []
        for place in order.tolist():
            if not left[place]:
                continue
            group = near[place] & left
            left &= ~group
            weights = 1 / relative[group].square()
            mean = ((unit[group] * (unit[group] @ unit[place]).sign()[:, None]).T @ weights) / weights.sum()
            found.append(mean)
        return torch.stack(found) if found else self._rows[:0]

    def _dual_basis(self) -> Tensor:
        """Coordinates ŷ by way of the sparsest basis of what is left; none if that is not complete."""
        rank = self._range.rank - len(self._images)
        inside = torch.linalg.svd(self._rows, full_matrices=False)[2][:rank].T
        basis = sparsest_basis(self._rows @ inside, self._noise, self._options.basis, self._budget, self._memory)
        if len(basis.vectors) < rank:
            return self._rows[:0]
        return torch.linalg.inv(basis.vectors).T @ inside.T

    def _certify(self, candidates: Tensor) -> bool:
        """Keep and subtract the candidates `(N, rank)` that are images; whether there were any."""
        before = self._settled = len(self._images)
        ones = candidates @ self._range.basis[-1]
        candidates = candidates[ones.abs() > 1e-9] / ones[ones.abs() > 1e-9, None]
        chunk = max(int(self._memory * 1e9 / 64 / max(self._range.basis.shape[0], 8 * len(self._noise))), 1)
        for some in candidates.split(chunk):
            if self._budget.exhausted:
                break
            with torch.no_grad():
                z = self._module(some @ self._range.basis[:-1].T)
            on = active(self._above, z)
            for place in range(len(some)):
                self._try(some[place], z[place], on[place])
        for image in self._images[before:]:
            self._rows = self._rows - image.delta[:, None] * image.y
            self._noise = (self._noise.square() + (image.delta * image.noise).square()).sqrt()
        return len(self._images) > before

    def _try(self, y: Tensor, z: Tensor, on: Tensor) -> None:
        """Certify one candidate by its pattern, then by its label."""
        options, rows, noise = self._options, self._range.rows, self._range.noise
        off = ~on & (z.abs() > 1e-5 * z.abs().max()) & (rows.norm(dim=1) > 0)
        weighted = rows[off] / noise[off, None]
        # Zero rows below: with fewer rows than columns the others are normal to them, too.
        _, s, vh = torch.linalg.svd(
            torch.cat([weighted, rows.new_zeros(rows.shape[1], rows.shape[1])]), full_matrices=False
        )
        normals = vh[s < options.cut * max(int(off.sum()), 1) ** 0.5].T
        alive = int((rows.norm(dim=1) > options.cut * noise * rows.shape[1] ** 0.5).sum())
        if not normals.shape[1] or float((y @ normals).norm()) < 1e-9 * float(y.norm()):
            return  # these rows span everything, or all but the candidate
        if alive - normals.shape[1] < options.min_equations * rows.shape[1]:
            return
        found = self._label(y, z, normals)
        if found is None:
            return
        w, label, error = found
        delta = rows @ w
        image = _Image(y, w, delta, label, float(1 / (delta.abs() / noise).max()), error)
        for place, other in enumerate(self._images):
            if float(torch.nn.functional.cosine_similarity(delta, other.delta, 0)) > 1 - 1e-6:
                if place >= self._settled and error < other.error:
                    self._images[place] = image  # the same image, with less of another in it
                return
        self._images.append(image)

    def _label(self, y: Tensor, z: Tensor, normals: Tensor) -> tuple[Tensor, int, float] | None:
        """The one class whose δ has the candidate's pattern, the normal w with Ĝ w = δ, and by how much they miss."""
        predicted = self._predicted(z)  # (classes, units)
        sizes = predicted.norm(dim=1).clamp_min(1e-300)
        span = self._range.rows @ normals
        free = normals @ torch.linalg.lstsq(span, predicted.T).solution  # (rank, classes), of any size
        scales = y @ free
        misfits = (self._range.rows @ free - predicted.T).norm(dim=0) / sizes
        if normals.shape[1] == 1 and len(scales) == 2:
            misfits[scales <= 0] = float("inf")  # of two classes one has the opposite δ of the other
        # δ = p − e rounds as the numbers near one that it is made of.
        allowed = self._options.agrees + 8 * self._rounding * sizes.max() / sizes
        order = (misfits / allowed).argsort().tolist()
        best = order[0]
        if misfits[best] > allowed[best] or abs(float(scales[best]) - 1) > float(allowed[best]):
            return None
        # Where all labels give the same δ up to its size, as a collapsed network's do, one of ten sizes fits by chance.
        beside = torch.maximum(self._options.margin * allowed[best], allowed)[order[1:]]
        if bool((misfits[order[1:]] < beside).any()):
            return None
        w = normals[:, 0] if normals.shape[1] == 1 else free[:, best]
        return w / (w @ y), best, float(misfits[best]) + abs(float(scales[best]) - 1)

    def _predicted(self, z: Tensor) -> Tensor:
        """δ of a candidate's output `z (units,)` by way of the loss, for each label, `(classes, units)`."""
        with torch.enable_grad():
            point = z.detach()[None].requires_grad_()
            scores = self._above(point)
            own = scores.detach().requires_grad_()
            found = []
            for label in range(scores.shape[1]):
                loss = self._seen.loss(own, torch.tensor([label], device=z.device))
                slope = torch.autograd.grad(loss, own)[0] / self._seen.batch_size
                found.append(torch.autograd.grad(scores, point, slope, retain_graph=True)[0][0])
        return torch.stack(found)

    def _separated(self) -> HiddenSeparation:
        spanned, found = self._range, self._images
        y = torch.stack([image.y for image in found])
        delta = torch.stack([image.delta for image in found])
        noise = torch.tensor([image.noise for image in found], dtype=y.dtype, device=y.device)
        if len(found) == spanned.rank:  # all normals are known: their dual basis uses every row
            dual = torch.linalg.inv(torch.stack([image.w for image in found])).T
            y = dual / (dual @ spanned.basis[-1])[:, None]
            inverse = torch.linalg.pinv(delta.T)
            noise = (inverse.square() @ spanned.noise.square()).sqrt()
        features = (y @ spanned.basis[:-1].T).contiguous()
        labels = torch.tensor([image.label for image in found], device=y.device)
        return HiddenSeparation(self._name, delta, features, noise, labels, len(found) == self._seen.batch_size)
