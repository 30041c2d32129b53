"""A batch taken apart: Lemma 3.1 for several images.

The gradients of the last layer z = Ŵ ĥ (the bias within Ŵ, a one within ĥ) are a sum over the images b of the batch,
with δ_b = ∂L/∂z_b:

    Ĝ = Σ_b δ_b ĥ_bᵀ = U S Vᵀ

While there are fewer images than classes Ĝ has rank B: the δ lie in the span of U, the ĥ in that of V, and what is
left to find is how the two pair up, a B × B matrix P:

    ĥ = V S P,    δ Pᵀ = U

But δ follows from the scores Ŵ ĥ by way of the loss, too. These are C·B equations for B² unknowns, C being the number
of classes. They know nothing of images, take milliseconds, and hold to the last digit only where P and the labels are
right: what comes out is certain (docs/method.md, section 5.6, (M35) and (M36), where P is called M).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import least_squares
from torch import Tensor
from torch.func import grad, jacrev

from leakage_audit.equations.base import rms
from leakage_audit.equations.softmax_mixing import SoftmaxMixing, softmax_offset
from leakage_audit.layerwise.label_inference import labels_for, least_counts
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SeparationOptions(Checked):
    """How hard a batch is tried to take apart; milliseconds a start, and what comes out is certain.

    Attributes:
        starts: With the likeliest labels: with them eight images of ten classes come apart.
        starts_otherwise: With other labels, of which most are wrong.
        otherwise: Other labels tried.
        spreads: Of the scores that a start supposes, in turn: trained networks' are wider.
        steps: Most evaluations of Levenberg-Marquardt a start.
        agrees: Root mean square of the equations, in standard deviations, up to which they hold: at most 1 where they
            do, larger by orders of magnitude elsewhere.
        settled: Least relative decrease of the squared residual a step: quadratic convergence ends there.
        largest: Entries of the Jacobian beyond which it would fill the memory; a gigabyte.
        clear: Times the noise's own largest singular value that the B-th must exceed, for as many images to have left
            their trace.
        least_probability: Of a class on average, where a start supposes scores: its logarithm must be finite.
    """

    starts: int = 20
    starts_otherwise: int = 3
    otherwise: int = 100
    spreads: tuple[float, ...] = (0.3, 1.0, 3.0)
    steps: int = 200
    agrees: float = 1.5
    settled: float = 1e-6
    largest: float = 1.2e8
    clear: float = 10.0
    least_probability: float = 1e-6

    def __post_init__(self) -> None:
        self.check(("starts", "spreads", "steps", "agrees", "settled", "largest", "clear", "least_probability"))
        self.check(not_negative=("starts_otherwise", "otherwise"))


@dataclass(frozen=True)
class SeparatedBatch:
    """What a fully connected layer gives away of each image of a batch.

    Attributes:
        layer: The layer's name: the last one, or one that `hidden_separation` has found.
        delta: ∂L/∂z of each image at its output, `(B, units)`; L is the batch's average.
        features: Its input of each image, `(B, features)`.
        noise: Standard deviation of the features' entries, `(B,)`.
        labels: The classes that they go with, `(B,)`.
    """

    layer: str
    delta: Tensor
    features: Tensor
    noise: Tensor
    labels: Tensor


def separate_batch(
    seen: Observation,
    relative_error: float,
    budget: Budget | None = None,
    options: SeparationOptions | None = None,
) -> SeparatedBatch | None:
    """Each image's δ and features, from the gradients of the last layer alone.

    Granted labels are tried first, then those that the gradient suggests, then their neighbours.

    Args:
        seen: What leaked, in float64, from a network that ends in its last fully connected layer.
        relative_error: Of a gradient's entry, as `base.relative_error_of` has it.
        budget: Time limit.
        options: How hard to try.

    Returns:
        None if that layer's gradients were not shared, if their rank is below the number of images (no fewer images
        than classes, an image twice, an image without loss), or if no labels agree with them.
    """
    options = options or SeparationOptions()
    last, size = last_layer(seen), seen.batch_size
    if last is None or last.bias is None:
        return None
    weight, bias = last.weight_gradient, last.delta
    if weight is None or bias is None or size >= len(bias) or size**3 * len(bias) > options.largest:
        return None
    if size > weight.shape[1] + 1:  # more images than the layer has inputs
        return None
    own = torch.cat([last.weight, last.bias[:, None]], 1).cpu()
    problem = _MixingProblem(torch.cat([weight, bias[:, None]], 1).cpu(), own, seen, relative_error, options)
    if not problem.complete:
        return None
    for place, labels in enumerate(_labellings(seen, options.otherwise)):
        for start in range(options.starts if place == 0 else options.starts_otherwise):
            if budget is not None and budget.exhausted:
                return None
            mixing, holds = problem.solve(labels, start)
            if holds:
                return problem.separated(last.name, mixing, labels)
    return None


class _MixingProblem:
    """The equations of P, `(B, B)`.

    Args:
        gradient: Ĝ, `(C, F + 1)`.
        weight: Ŵ, `(C, F + 1)`.
        seen: What leaked.
        relative_error: Of an entry of Ĝ, as a standard deviation.
        options: How hard to try.

    Attributes:
        complete: Whether Ĝ has rank B.
    """

    def __init__(
        self, gradient: Tensor, weight: Tensor, seen: Observation, relative_error: float, options: SeparationOptions
    ) -> None:
        self._seen, self._gradient, self._options = seen, gradient, options
        b, (rows, columns) = seen.batch_size, gradient.shape
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        own = relative_error * rms(gradient)
        beyond = float(s[b:].norm()) / ((rows - b) * (columns - b)) ** 0.5  # what has more than rank B
        self._noise = max(own, beyond, 1e-15 * float(s[0]))  # of an entry; the last is the decomposition's, in float64
        # The rounding of a δ is common to all entries of its row, and all of it lies in the span of V.
        self._agrees = options.agrees * max(self._noise, relative_error * float(s.norm()) / (rows * b) ** 0.5)
        self.complete = bool(s[b - 1] > options.clear * self._noise * columns**0.5)
        self._u, self._s, self._basis = u[:, :b], s[:b], vh[:b].T * s[:b]
        self._scores = weight @ self._basis

    def delta(self, mixing: Tensor, labels: Tensor) -> Tensor:
        """δ by way of the loss, `(B, C)`."""
        return grad(self._seen.loss)((self._scores @ mixing).T, labels)

    def residual(self, mixing: Tensor, labels: Tensor) -> Tensor:
        """δ Pᵀ − U, each column by its singular value, so that all have the noise of Ĝ; and the ones within ĥ."""
        spans = (self.delta(mixing, labels).T @ mixing.T - self._u) * self._s
        return torch.cat([spans.flatten(), (self._basis[-1] @ mixing - 1) * self._s[0] / len(mixing)])

    def solve(self, labels: Tensor, start: int) -> tuple[Tensor, bool]:
        """Levenberg-Marquardt (MINPACK) from a random start.

        Returns:
            P, and whether its equations hold.
        """
        begin = self._start(labels, start)
        functions = self._closed_form(labels) or self._by_autograd(labels, begin.shape)
        found = least_squares(
            functions[0],
            begin.flatten().numpy(),
            functions[1],
            method="lm",
            x_scale="jac",
            ftol=self._options.settled,
            xtol=1e-15,  # the other two criteria are left to rounding
            gtol=1e-15,
            max_nfev=self._options.steps,
        )
        mixing = torch.from_numpy(found.x).reshape(begin.shape)
        return mixing, rms(self.residual(mixing, labels)) < self._agrees

    def _closed_form(self, labels: Tensor) -> tuple[Function, Function] | None:
        """Residual and Jacobian in P's entries where the loss is a softmax's."""
        offset = softmax_offset(self._seen.loss, labels, len(self._gradient))
        if offset is None or self._scores.dtype is not torch.float64:
            return None
        found = SoftmaxMixing(self._scores, self._u, self._s, self._basis[-1], offset)
        return found.residual, found.jacobian

    def _by_autograd(self, labels: Tensor, shape: torch.Size) -> tuple[Function, Function]:
        """The same under any loss."""

        def residual(entries: np.ndarray) -> np.ndarray:
            return self.residual(torch.from_numpy(entries).reshape(shape), labels).numpy()

        def jacobian(entries: np.ndarray) -> np.ndarray:
            return jacrev(self.residual)(torch.from_numpy(entries).reshape(shape), labels).flatten(1).numpy()

        return residual, jacobian

    def _start(self, labels: Tensor, start: int) -> Tensor:
        """P for scores drawn around those that the average probabilities tell."""
        classes, size = len(self._gradient), len(labels)
        truth = F.one_hot(labels, classes).to(self._gradient)
        average = (self._gradient[:, -1] + truth.mean(0)).clamp_min(self._options.least_probability)
        generator = torch.Generator().manual_seed(start)
        spread = self._options.spreads[start % len(self._options.spreads)]
        noise = torch.randn(size, classes, generator=generator, dtype=average.dtype)
        delta = (torch.softmax(average.log() + spread * noise, 1) - truth) / size
        return torch.linalg.lstsq(delta.T, self._u).solution.T

    def separated(self, layer: str, mixing: Tensor, labels: Tensor) -> SeparatedBatch:
        """What P says of each image."""
        delta = self.delta(mixing, labels)
        jacobian = jacrev(self.residual)(mixing, labels).flatten(1)
        doubt = torch.linalg.pinv(jacobian).norm(dim=1).reshape(mixing.shape)  # of P, for equations of unit noise
        own = (self._s[:, None] * doubt).norm(dim=0) / len(self._basis) ** 0.5
        noise = self._noise * (torch.linalg.pinv(delta.T).norm(dim=1) + own)
        like = self._seen.gradients[next(iter(self._seen.gradients))]
        features = (self._basis @ mixing).T[:, :-1]
        return SeparatedBatch(layer, delta.to(like), features.to(like), noise.to(like), labels.to(like.device))


def _labellings(seen: Observation, otherwise: int) -> Iterator[Tensor]:
    """Labels by plausibility, on the CPU; so many others than the likeliest."""
    if seen.labels is not None:
        yield seen.labels.cpu()
    likeliest = labels_for(replace(seen, labels=None))[0].cpu()
    yield likeliest
    least = least_counts(seen).cpu()
    counts = torch.bincount(likeliest, minlength=len(least))
    tried = {tuple(counts.tolist())}
    queue = [counts]
    for counts in queue:  # one image of another class, then two, and so on
        for lost in (counts - least).nonzero().flatten().tolist():
            for gained in range(len(least)):
                other = counts.clone()
                other[lost] -= 1
                other[gained] += 1
                if tuple(other.tolist()) not in tried and len(tried) <= otherwise:
                    tried.add(tuple(other.tolist()))
                    queue.append(other)
                    yield torch.repeat_interleave(torch.arange(len(other)), other)
