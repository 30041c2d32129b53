"""Inputs of a convolution certified by a forward pass: all that lies above them is then known.

`convolution_separation` tells the inputs of all images up to a positive factor each. Where the scores depend on the
image by way of these inputs alone, a forward pass gives everything above, and what was observed there must follow:

1. *Sizes.* The derivatives at the convolution's output have the inverse factors. Before batch statistics their sum over
   images and positions is zero, channel by channel, which leaves one common factor; before a normalisation by running
   statistics it is γ/σ · ∂L/∂β, which leaves none. What is left is chosen such that the rows of the last layer's
   gradient lie in the span of the features (variable projection; no labels are needed for that).
2. *Labels.* With the features known, that gradient, Σ_b δ_b f_bᵀ, gives δ_b, of which the label's entry is negative.
3. *Certificate.* The loss's gradient at these inputs and labels must agree with what was observed in every parameter
   above, which are millions of equations; nothing is returned otherwise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.convolution_separation import ConvolutionInputs
from leakage_audit.layerwise.last_layer import last_layer
from leakage_audit.networks.dataflow import Dataflow
from leakage_audit.observation import Observation
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget


@dataclass(frozen=True)
class CertificateOptions(Checked):
    """When inputs are certified.

    Attributes:
        agrees: Relative error of each gradient above up to which it is that of the inputs; inputs to 1e-4 leave about
            as much, a wrong image or label an error of order one.
        counts: Gradients smaller than this share of the largest are rounding and are not compared.
        balanced: Sums of derivatives below this share of them are zero; float32 leaves 1e-6.
        sizes: Root mean squares of an input, from the least to the largest, that are tried where nothing tells them.
        tries: How many of them, evenly on a logarithmic scale.
        steps: Gauss-Newton steps for the sizes from the best of them.
        other: Common factor at which the gradients above no longer agree, where they tell it.
    """

    agrees: float = 1e-3
    counts: float = 1e-4
    balanced: float = 1e-3
    sizes: tuple[float, float] = (1e-2, 1e2)
    tries: int = 17
    steps: int = 12
    other: float = 1.1

    def __post_init__(self) -> None:
        self.check(positive=("agrees", "counts", "balanced", "sizes", "tries", "other"), not_negative=("steps",))


@dataclass(frozen=True)
class CertifiedInputs:
    """What a convolution was fed, image by image, with their derivatives and labels.

    Attributes:
        layer: The convolution's name.
        inputs: `(B, c_in, H, W)`, in the order of granted labels, otherwise of the labels found.
        input_gradients: ∂L/∂inputs by all ways above, `(B, c_in, H, W)`; L is the batch's average.
        labels: `(B,)`.
        noise: Standard deviation of the inputs' entries, relative to each image's root mean square, `(B,)`.
        scaled: Whether the gradients above tell the common size; batch statistics right above forget it.
        error: Largest relative error of a gradient above.
    """

    layer: str
    inputs: Tensor
    input_gradients: Tensor
    labels: Tensor
    noise: Tensor
    scaled: bool
    error: float


def certify(
    seen: Observation,
    flow: Dataflow,
    found: ConvolutionInputs,
    options: CertificateOptions | None = None,
    budget: Budget | None = None,
) -> CertifiedInputs | None:
    """Sizes and labels of a convolution's inputs, if the gradients above agree with them.

    Args:
        seen: What leaked, in float64.
        flow: Its network's operations, with parameters of their own (`stateless`).
        found: The inputs, up to a factor each.
        options: When they are certified.
        budget: Time limit.

    Returns:
        None if the scores depend on the image in another way, too, if the last layer is not fully connected, or if the
        gradients above do not agree.

    Raises:
        OutOfTime: If the time was up before that was known.
    """
    node, last = flow.fed(found.layer), last_layer(seen)
    if node is None or last is None or last.weight_gradient is None or not flow.is_cut(node):
        return None
    fed = flow.fed(last.name)
    if fed is None or len(found.inputs) != seen.batch_size or not seen.class_targets:
        return None
    return _Certificate(seen, flow, found, options or CertificateOptions(), budget or Budget())()


class _Certificate:
    """One convolution's inputs on trial."""

    def __init__(
        self, seen: Observation, flow: Dataflow, found: ConvolutionInputs, options: CertificateOptions, budget: Budget
    ) -> None:
        self._seen, self._flow, self._found, self._options, self._budget = seen, flow, found, options, budget
        node, last = flow.fed(found.layer), last_layer(seen)
        assert last is not None
        assert last.weight_gradient is not None
        fed = flow.fed(last.name)
        assert node is not None
        assert fed is not None
        self._node, self._fed, self._ones = node, fed, last.delta is not None
        bias = [] if last.delta is None else [last.delta[:, None]]
        self._gradient = torch.cat([last.weight_gradient, *bias], 1)

    def __call__(self) -> CertifiedInputs | None:
        sizes, common = self._sums()
        if common is None:
            sizes = self._fitted(sizes, torch.eye(len(sizes), dtype=sizes.dtype, device=sizes.device))
        elif common:
            sizes = self._fitted(sizes, torch.ones_like(sizes)[None])
        inputs = self._found.inputs * sizes[:, None, None, None]
        derivative = torch.linalg.lstsq(self._features(inputs).T, self._gradient.T).solution  # (B, classes)
        labels = derivative.argmin(1)
        order = self._order(labels)
        if order is None:
            return None
        inputs, labels = inputs[order], labels[order]
        error, slope = self._error(inputs, labels)
        if not error <= self._options.agrees:
            return None
        scaled = self._error(inputs * self._options.other, labels)[0] > self._options.agrees
        return CertifiedInputs(self._found.layer, inputs, slope, labels, self._found.noise[order], scaled, error)

    def _sums(self) -> tuple[Tensor, bool | None]:
        """Factors of the inputs from sums of derivatives; whether a common one is missing, None if all are."""
        found, seen = self._found, self._seen
        sizes = found.inputs.new_ones(len(found.inputs))
        if found.scaled:
            return sizes, False
        sums = found.derivatives.flatten(2).sum(2).T  # (c_out, B)
        call = self._flow.call(found.layer)
        assert call is not None
        after = [self._flow.module(user) for user in call.users]
        norm = after[0] if len(after) == 1 else None
        if isinstance(norm, _BatchNorm) and not norm.training and norm.running_var is not None:
            name = next(name for name, module in self._flow.network.named_modules() if module is norm)
            shift = seen.gradient_of(name, "bias")
            if shift is not None and shift.any():
                slope = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
                own = torch.linalg.lstsq(sums, (shift * slope)[:, None]).solution[:, 0]
                return (1 / own, False) if bool((own > 0).all()) else (sizes, None)
        lengths = found.derivatives.flatten(1).norm(dim=1)
        _, s, vh = torch.linalg.svd(sums / lengths, full_matrices=False)
        own = vh[-1] * vh[-1].sum().sign()
        if float(s[-1]) < self._options.balanced and bool((own > 0).all()):
            return lengths / own * float((own / lengths).mean()), True
        return sizes, None

    def _features(self, inputs: Tensor) -> Tensor:
        """What the last layer is fed, with a one for its bias, `(B, features + 1)`."""
        with torch.no_grad():
            features = self._flow.forward({self._node: inputs}, self._fed)[self._fed]
        return torch.cat([features, features.new_ones(len(features), 1)], 1) if self._ones else features

    def _outside(self, inputs: Tensor) -> Tensor:
        """The part of the last layer's gradient that is outside the features' span, as a share of it."""
        q = torch.linalg.qr(self._features(inputs).T)[0]
        return (self._gradient - (self._gradient @ q) @ q.T) / self._gradient.norm()

    def _fitted(self, sizes: Tensor, directions: Tensor) -> Tensor:
        """Gauss-Newton on the logarithms of the factors, along some directions, from the best common one."""
        inputs = self._found.inputs
        lowest, highest = (math.log(size) for size in self._options.sizes)

        def residual(logs: Tensor) -> Tensor:
            factors = sizes * (logs @ directions).exp()
            with self._budget.work(kind="a convolution's certificate"):
                return self._outside(inputs * factors[:, None, None, None]).flatten()

        grid = torch.linspace(lowest, highest, self._options.tries).tolist()
        starts = [torch.full((len(directions),), value, dtype=sizes.dtype, device=sizes.device) for value in grid]
        logs = min(starts, key=lambda start: float(residual(start).norm()))
        here = residual(logs)
        for _ in range(self._options.steps):
            units = torch.eye(len(logs), dtype=logs.dtype, device=logs.device) * 1e-5
            jacobian = torch.stack([(residual(logs + unit) - residual(logs - unit)) / 2e-5 for unit in units], 1)
            step = torch.linalg.lstsq(jacobian, -here[:, None]).solution[:, 0].clamp(-1, 1)
            shares = [s for s in (1.0, 0.25, 0.06) if float(residual(logs + s * step).norm()) < float(here.norm())]
            if not shares:
                break
            logs = logs + shares[0] * step
            here = residual(logs)
            if float(step.abs().max()) < 1e-9:
                break
        return sizes * (logs @ directions).exp()

    def _order(self, labels: Tensor) -> Tensor | None:
        """Places of the images in the order of the granted labels, otherwise of their own; None if these differ."""
        granted = self._seen.labels
        if granted is None:
            return labels.argsort(stable=True)
        places = torch.empty_like(labels)
        places[granted.argsort(stable=True)] = labels.argsort(stable=True)
        return places if torch.equal(labels[places], granted) else None

    def _error(self, inputs: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Largest relative error of a gradient above, and ∂L/∂inputs."""
        own = {
            name: p.requires_grad_()
            for name, p in self._flow.network.named_parameters()
            if name in self._seen.gradients
        }
        point = inputs.detach().requires_grad_()
        with torch.enable_grad():
            scores = self._flow.forward({self._node: point})[self._flow.end]
            loss = self._seen.loss(scores, labels)
            slope, *found = torch.autograd.grad(loss, [point, *own.values()], allow_unused=True)
        for p in own.values():
            p.requires_grad_(False)
        pairs = [(g, self._seen.gradients[name]) for name, g in zip(own, found, strict=True) if g is not None]
        largest = max(float(g.square().mean().sqrt()) for _, g in pairs)
        errors = [
            float((g - observed).norm() / observed.norm())
            for g, observed in pairs
            if float(observed.square().mean().sqrt()) > self._options.counts * largest
        ]
        return max(errors), slope
