"""Any classifier's equations: its plain gradient as a function of the images, through `torch.func`.

If the last layer is fully connected with a bias, Lemma 3.1 gives the derivative δ at its output and the features at
its input, for a batch by way of `separation`. Every other gradient is then that of Σ ⟨δ, W f(x) + b⟩ over the images,
whatever the loss and the labels; and the features themselves are equations, far straighter ones than the gradients.
Otherwise the loss is differentiated as it stands, with labels granted or inferred.

Where there are many more equations than unknowns, each large block is replaced by random signed sums of its entries:
as many as decide as much, for a fraction of the Jacobian.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.joint.equations import ROUNDING, Block, Equations
from leakage_audit.joint.separation import Separated
from leakage_audit.labels import labels_for, last_linear
from leakage_audit.lemma import input_from_gradient
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY

PLENTY = 2.0  # equations kept per unknown


class NetworkEquations(Equations):
    """Gradients, and features where Lemma 3.1 gives them, of any differentiable classifier.

    Dropout is taken as the identity (which units it dropped is not known); batch normalisation in training mode uses
    the statistics of the candidate images, as the step did.

    Args:
        seen: What leaked, in float64.
        rounding: Relative rounding of the gradients' own type.
        separated: What the last layer gives away of each image of a batch, where it does.
        seed: Of the random sums.

    Raises:
        ValueError: If labels are needed and cannot be inferred.
    """

    def __init__(self, seen: Observation, rounding: float, separated: Separated | None = None, seed: int = 0) -> None:
        rounding = ROUNDING * rounding
        self._network = _frozen(seen.network)
        self._last: Tensor | None = None
        self._features: Tensor | None = None
        self._delta: Tensor | None = None
        self._labels: Tensor | None = None
        gradients = dict(seen.gradients)
        blocks = self._open_last_layer(seen, gradients, rounding, separated)
        if separated is not None:  # the gradients are predicted from a δ that is as uncertain as the features
            rounding = max(rounding, float((separated.noise / _rms(separated.features)).max()))
        if self._delta is None:
            self._labels, _ = labels_for(seen)
        self._parameters = {name: p.detach() for name, p in self._network.named_parameters() if name in gradients}
        generator = torch.Generator().manual_seed(seed)
        spare = PLENTY * seen.batch_size * math.prod(seen.input_shape) - sum(b.target.numel() for b in blocks)
        kept = _share_out([g.numel() for g in gradients.values()], max(int(spare), len(gradients)))
        self._sums = [_RandomSums(g.numel(), k, generator) for g, k in zip(gradients.values(), kept, strict=True)]
        for (name, g), sums in zip(gradients.items(), self._sums, strict=True):
            # A sum of entries with random signs grows like the root of their number, and so does its noise.
            noise = rounding * float(g.square().mean().sqrt()) * math.sqrt(g.numel() / len(sums))
            blocks.append(Block(name, sums(g), noise))
        super().__init__(seen, blocks)

    def _open_last_layer(
        self, seen: Observation, gradients: dict[str, Tensor], rounding: float, separated: Separated | None
    ) -> list[Block]:
        """Take the last layer's gradients out and put δ and the features in their place, if Lemma 3.1 applies."""
        found = last_linear(self._network)
        if found is None or (seen.batch_size > 1 and separated is None):
            return []
        prefix = f"{found[0]}." if found[0] else ""
        delta, weight = gradients.get(f"{prefix}bias"), gradients.get(f"{prefix}weight")
        if delta is None or weight is None or not delta.any():
            return []
        handle = found[1].register_forward_hook(self._keep)
        grey = torch.full((seen.batch_size, *seen.input_shape), GREY, dtype=seen.dtype, device=seen.device)
        self._network(seen.to_input(grey))
        if self._features is None or self._features.shape != (seen.batch_size, weight.shape[1]):
            handle.remove()  # used on something else than one vector an image
            return []
        del gradients[f"{prefix}bias"], gradients[f"{prefix}weight"]
        if separated is None:
            features = input_from_gradient(weight, delta)
            self._delta = delta[None]
            return [Block("features", features, rounding * float(_rms(features)))]
        self._delta = separated.delta
        noise = separated.noise[:, None].expand_as(separated.features)
        return [Block("features", separated.features.flatten(), noise.flatten())]

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features, self._last = inputs[0], output

    @property
    def footprint(self) -> int:
        """Every module's output and every gradient, forth and back twice."""
        outputs: list[int] = []

        def count(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor):
                outputs.append(output.numel())

        handles = [m.register_forward_hook(count) for m in self._network.modules() if not list(m.children())]
        with torch.no_grad():
            self._network(self.seen.to_input(torch.full(self.shape, GREY).to(self.noise)))
        for handle in handles:
            handle.remove()
        return 8 * sum(outputs) + 4 * sum(p.numel() for p in self._parameters.values())

    def _objective(self, parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        scores = functional_call(self._network, parameters, (x,))
        if self._delta is None or self._last is None or self._features is None:
            assert self._labels is not None  # read at construction where there is no δ
            return self.seen.loss(scores, self._labels), scores
        return (self._last * self._delta).sum(), self._features.flatten()

    def values(self, image: Tensor) -> list[Tensor]:
        """Features of `image (B, C, H, W)` and the (summed) gradients that training on it would share."""
        found, features = grad(self._objective, has_aux=True)(self._parameters, self.seen.to_input(image))
        sums = [s(found[name].flatten()) for name, s in zip(self._parameters, self._sums, strict=True)]
        return sums if self._delta is None else [features, *sums]


class _RandomSums:
    """`k` sums of a vector's entries, each entry in one of them with a random sign; the identity if k is no less."""

    def __init__(self, entries: int, k: int, generator: torch.Generator) -> None:
        self._k = min(k, entries)
        self._bucket: Tensor | None = None
        if k < entries:
            # As even as can be: a sum of few entries counts for as much as one of many.
            self._bucket = torch.randperm(entries, generator=generator) % k
            self._sign = torch.randint(0, 2, (entries,), generator=generator).double() * 2 - 1

    def __len__(self) -> int:
        return self._k

    def __call__(self, values: Tensor) -> Tensor:
        values = values.flatten()
        if self._bucket is None:
            return values
        signed = values * self._sign.to(values)
        return torch.zeros(self._k, dtype=values.dtype, device=values.device).index_add(
            0, self._bucket.to(values.device), signed
        )


def _rms(values: Tensor) -> Tensor:
    """Root mean square over the last dimension."""
    return values.square().mean(-1).sqrt()


def _share_out(sizes: list[int], total: int) -> list[int]:
    """Give each block its size, or an even share of `total` where that is less."""
    given = dict.fromkeys(range(len(sizes)), 0)
    left = total
    for place, (i, size) in enumerate(sorted(enumerate(sizes), key=lambda item: item[1])):
        given[i] = min(size, max(1, left // (len(sizes) - place)))
        left -= given[i]
    return [given[i] for i in range(len(sizes))]


def _frozen(network: nn.Module) -> nn.Module:
    """A copy that calls no random numbers and keeps no running statistics, in the modes of the observed step."""
    network = copy.deepcopy(network).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.training:
            module.running_mean = module.running_var = module.num_batches_tracked = None
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return network
