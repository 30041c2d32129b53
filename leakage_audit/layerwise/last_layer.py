"""The last fully connected layer that the network *executes*, and what its gradient says: read once an observation.

Lemma 3.1 starts at this layer, labels are read from it, and its input is the features that leak. Its place in the order
of definition says nothing: a head may be defined before the body, an auxiliary one last and never called. One forward
pass tells, and is remembered for as long as the network lives.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from leakage_audit.observation import Observation


@dataclass(frozen=True)
class LastLayer:
    """The last executed fully connected layer, and what leaked of it.

    Attributes:
        name: Its path in the network; empty for the network itself.
        weight: W, `(classes, features)`.
        bias: b, `(classes,)`, or None.
        weight_gradient: ∂L/∂W, or None if it was not shared.
        delta: ∂L/∂b, which is the batch's sum of ∂L/∂z, `(classes,)`; None if it was not shared.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    weight_gradient: Tensor | None
    delta: Tensor | None

    @property
    def features(self) -> Tensor | None:
        """Row k of ∂L/∂W over entry k of δ, `(classes, features)`, rows of zeros where δ is zero (Lemma 3.1).

        Each row is the layer's input for a single image, and an average of the images' inputs, dominated by those of
        class k, for a batch. None unless both gradients were shared.
        """
        if self.weight_gradient is None or self.delta is None:
            return None
        return torch.where(self.delta[:, None] == 0, 0, self.weight_gradient / self.delta[:, None])

    def parameter(self, kind: str) -> str:
        """The path of its `weight` or `bias`."""
        return f"{self.name}.{kind}" if self.name else kind


@dataclass(frozen=True)
class _Executed:
    """What one forward pass told: the layer's name, or why there is none."""

    name: str | None
    problem: str = ""


_executed: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], _Executed]] = WeakKeyDictionary()


def last_layer(seen: Observation) -> LastLayer | None:
    """The last fully connected layer in the order of execution; None where `why_no_last_layer` has a reason.

    Args:
        seen: What leaked; its network is run once and left as it was.
    """
    name = _last_executed(seen).name
    if name is None:
        return None
    module = seen.network.get_submodule(name)
    assert isinstance(module, nn.Linear)  # only such are watched
    return LastLayer(
        name=name,
        weight=module.weight.detach(),
        bias=None if module.bias is None else module.bias.detach(),
        weight_gradient=seen.gradient_of(name, "weight"),
        delta=seen.gradient_of(name, "bias"),
    )


def why_no_last_layer(seen: Observation) -> str:
    """Why `last_layer` is None; empty if it is not."""
    return _last_executed(seen).problem


def _last_executed(seen: Observation) -> _Executed:
    shape = (seen.batch_size, *seen.input_shape)
    known = _executed.setdefault(seen.network, {})
    if shape not in known:
        known[shape] = _watch(seen, shape)
    return known[shape]


def _watch(seen: Observation, shape: tuple[int, ...]) -> _Executed:
    calls: list[str] = []
    linear = [(name, module) for name, module in seen.network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return _Executed(None, "the network has no fully connected layer")

    handles = [m.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, m in linear]
    grey = torch.full(shape, sum(seen.value_range) / 2, dtype=seen.dtype, device=seen.device)
    try:
        with _unchanged(seen):
            seen.network(seen.to_input(grey).to(linear[0][1].weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        return _Executed(None, "no fully connected layer of the network is reached by the forward pass")
    if calls.count(calls[-1]) > 1:
        return _Executed(
            None, f"the last fully connected layer, {calls[-1]}, is used twice: its gradient is a sum over its uses"
        )
    return _Executed(calls[-1])


@contextmanager
def _unchanged(seen: Observation) -> Iterator[None]:
    """Run the network without a graph; its buffers and torch's random numbers are afterwards as before."""
    training = any(module.training for module in seen.network.modules())
    kept = [
        (m, k, b, b.clone()) for m in seen.network.modules() if training for k, b in m._buffers.items() if b is not None
    ]
    cuda = [seen.device] if seen.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.inference_mode(False), torch.no_grad():
        try:
            yield
        finally:
            for module, name, buffer, before in kept:
                module._buffers[name] = buffer.copy_(before)
