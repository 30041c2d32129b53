"""A network opened from where it is known: what its layers were fed, exactly, before any image is guessed.

What the attacker knows at some operation, each image's value and derivative there, comes from the last layer (Lemma
3.1, or a batch separated there) or from a convolution that told its images apart. Below it, a layer whose derivative δ
is known gives the inputs of all images away (`input_from_gradient`). The rectifier that made these was on where they
are positive, so δ is known one layer further down, and so on, until an input is not determined or something else (a
pooling's choice, an activation that does not show its slope, statistics of a batch that is not known) hides it.

Nothing is assumed of an operation (`dataflow`). Its derivative is taken where its inputs are known; where they are not,
at a few guesses of the images, and is known if it is the same for all. A rectifier's is known from its output.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.arrangement import Arrangement
from leakage_audit.equations.batch_statistics import NormalisedReader, solve_through_statistics
from leakage_audit.equations.forgotten_by_statistics import Lowest, agree
from leakage_audit.equations.input_from_gradient import PartialInput, Reader, solve_for_input
from leakage_audit.equations.known_inputs import Known, RecoveredInput, RecoveryOptions, known_at_the_end
from leakage_audit.equations.normalisations_below import NormalisationsBelow
from leakage_audit.equations.rectifier_pattern import Patterns
from leakage_audit.networks.dataflow import Dataflow, is_differentiable, read_dataflow
from leakage_audit.networks.layer_types import type_of
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import Observation
from leakage_audit.priors import GREY
from leakage_audit.runtime import Budget, OutOfTime, bytes_of


def recover_backwards(
    seen: Observation,
    rounding: float,
    seed: int = 0,
    options: RecoveryOptions | None = None,
    start: Known | None = None,
    budget: Budget | None = None,
    patterns: Mapping[str, Tensor] | None = None,
    flow: Dataflow | None = None,
) -> list[RecoveredInput]:
    """The inputs that follow from the gradients alone, the last layer's first, the one nearest the image last.

    Args:
        seen: What leaked, in float64.
        rounding: Relative error of a gradient's entry, as `base.relative_error_of` has it.
        seed: Of the guesses.
        options: How it is told what is known.
        start: Where to start; by default the last layer of a single image's network.
        budget: Limits of time and memory.
        patterns: Which units `(B, …)` of some rectifiers were on, by the name of the operation, where that is known.
        flow: The network's operations (`stateless`), where they are read already.

    Returns:
        Nothing where there is nothing to start from, or `torch.fx` cannot follow the network; where the time is up,
        what was found by then.

    Raises:
        OverBudget: If there is no time or memory even for the network's values at guesses.
    """
    start = start or known_at_the_end(seen, rounding)
    if start is not None and flow is None:
        flow = read_dataflow(stateless(seen.network))
    if start is None or flow is None or flow.call(start.layer) is None or flow.fed(start.layer) is None:
        return []
    walk = _Walk(seen, flow, start, rounding, seed, options or RecoveryOptions(), budget or Budget())
    for node in flow.nodes:
        if patterns and node.name in patterns:
            walk.patterns.learn(node, patterns[node.name], torch.zeros_like(patterns[node.name]))
    return walk()


class _Walk:
    """Values and derivatives, from the start down."""

    def __init__(
        self,
        seen: Observation,
        flow: Dataflow,
        start: Known,
        rounding: float,
        seed: int,
        options: RecoveryOptions,
        budget: Budget,
    ) -> None:
        self._seen, self._flow, self._rounding, self._options, self._budget = seen, flow, rounding, options, budget
        generator = torch.Generator().manual_seed(seed)
        self._guesses = []
        for _ in range(options.guesses):
            noise = torch.randn(seen.batch_size, *seen.input_shape, generator=generator, dtype=seen.dtype)
            guess = seen.to_input(GREY + options.spread * noise.to(seen.device))
            with torch.no_grad(), budget.work(kind="values at a guess"):
                self._guesses.append(flow.forward({flow.image: guess}))
            size = bytes_of(value for value in self._guesses[0].values() if isinstance(value, Tensor))
            budget.require("a network's values at guesses", options.guesses * size)
        call, fed = flow.call(start.layer), flow.fed(start.layer)
        assert call is not None
        assert fed is not None
        counts = {node for node in flow.nodes if node is flow.end or flow.end in flow.above(node)}
        self._counts = {node for node in counts if is_differentiable(self._guesses[0].get(node))}
        self._training = any(isinstance(m, _BatchNorm) and m.training for m in flow.network.modules())
        self._derivatives: dict[fx.Node, Tensor | None] = {fed if start.of_input else call: start.derivative}
        self._given = set(self._derivatives)
        self._values: dict[fx.Node, Tensor] = {}
        noise = start.noise.view(-1, *[1] * (start.input.ndim - 1)).expand_as(start.input)
        self.patterns = Patterns(flow, self._guesses[:2], options.pattern)
        self._norms = NormalisationsBelow(seen, flow, self.patterns, options.forgotten)
        self._open_constants: dict[fx.Node, Tensor] = {}
        self._learn(fed, start.input, noise)
        way = Arrangement.of(flow.network.get_submodule(start.layer), tuple(start.input.shape[1:]))
        whole = PartialInput.whole(start.input, noise, way)
        self._found: dict[fx.Node, tuple[str, PartialInput]] = {fed: (start.layer, whole)}

    def __call__(self) -> list[RecoveredInput]:
        readers = self._readers()
        for node in reversed(self._flow.nodes):
            if self._budget.exhausted:
                break
            self._derivative(node)
            if node in readers and node not in self._values:
                try:
                    self._open(node, readers[node])
                except OutOfTime:
                    break
        self._fill_constants()
        return [
            RecoveredInput(name, known, self._derivatives.get(node), self._flow.is_cut(node))
            for node, (name, known) in self._found.items()
        ]

    def _readers(self) -> dict[fx.Node, list[tuple[str, fx.Node, nn.Module, Tensor]]]:
        """Layers by what they are fed, of those whose gradients are known and which are called once."""
        found: dict[fx.Node, list[tuple[str, fx.Node, nn.Module, Tensor]]] = {}
        for name, module in self._flow.network.named_modules():
            gradient = self._seen.gradient_of(name, "weight")
            call, fed = self._flow.call(name), self._flow.fed(name)
            if gradient is not None and type_of(module) is not None and call is not None and fed is not None:
                found.setdefault(fed, []).append((name, call, module, gradient))
        return found

    def _derivative(self, node: fx.Node) -> Tensor | None:
        """∂L/∂(an operation's output), the sum over those that use it; None where it is not known."""
        if node not in self._counts:
            return None
        if node not in self._derivatives:
            total: Tensor | None = None
            for user in node.users:
                if user in self._counts:
                    part = self._pulled(user, node)
                    if part is None:
                        total = None
                        break
                    total = part if total is None else total + part
            self._derivatives[node] = total
        return self._derivatives[node]

    def _pulled(self, user: fx.Node, node: fx.Node) -> Tensor | None:
        """What an operation hands back to one of its inputs."""
        derivative = self._derivative(user)
        if derivative is None or not user.op.startswith("call"):
            return None
        inputs = [n for n in user.all_input_nodes if n.op != "get_attr"]
        if all(n in self._values for n in inputs):
            return self._flow.pull_back(user, self._values, derivative)[node]
        shown = self.patterns.shown(user)
        if shown is not None:
            return self._flow.pull_back(user, {node: shown}, derivative)[node]
        pulled = [self._flow.pull_back(user, guess, derivative)[node] for guess in self._guesses]
        apart = max(float((other - pulled[0]).norm()) for other in pulled[1:])
        return pulled[0] if apart <= self._options.same * float(pulled[0].norm()) and pulled[0].any() else None

    def _open(self, node: fx.Node, readers: list[tuple[str, fx.Node, nn.Module, Tensor]]) -> None:
        shape = tuple(self._guesses[0][node].shape[1:])
        if self._training and self._open_statistics(node, readers, shape):
            return

        def solve() -> tuple[PartialInput | None, float]:
            known = []
            for _, call, module, gradient in readers:
                delta = self._derivative(call)
                if delta is not None and delta.any():
                    known.append(Reader(module, delta, gradient))
            return solve_for_input(known, shape, self._rounding, self._options.inputs, self._budget)

        def again(changed: set[fx.Node]) -> tuple[PartialInput | None, float]:
            affected = {
                other for other in self._derivatives if any(other is n or n in self._flow.above(other) for n in changed)
            }
            for other in affected - self._given - changed:
                del self._derivatives[other]
            return solve()

        found, residual = solve()
        if found is None and residual == residual:
            calls = [call for _, call, _, _ in readers]
            found = self.patterns.mend(calls, self._derivatives, again, residual, self._budget)
        if found is None:
            return
        self._found[node] = (readers[0][0], found)
        if found.basis is None:
            self._learn(node, found.by_image(found.value), found.by_image(found.noise))

    def _open_statistics(
        self, node: fx.Node, readers: list[tuple[str, fx.Node, nn.Module, Tensor]], shape: tuple[int, ...]
    ) -> bool:
        """Solve below batch normalisation in training mode; whether the input was found, in its own size."""
        known = []
        for _, call, module, gradient in readers:
            norm = self._norms.of(next(iter(call.users))) if len(call.users) == 1 else None
            derivative = self._derivative(next(iter(call.users))) if norm is not None else None
            if norm is None or derivative is None:
                return False
            known.append(NormalisedReader(module, norm[0], derivative, gradient, *norm[1:]))
        calls, options = [call for _, call, _, _ in readers], self._options
        begin: Tensor | None = None
        for _ in range(2):  # in any size, then in its own
            found = solve_through_statistics(
                known, shape, self._rounding, options.inputs, options.statistics, self._budget, begin
            )
            if found is None:
                return False
            whole = found.input
            value, noise = whole.by_image(whole.value), whole.by_image(whole.noise)
            lowest = None
            if found.constant is not None:
                where = found.constant.reshape(len(value), *value.shape[2:])
                lowest = Lowest.of(value, noise, where, options.pattern.cut, options.forgotten.zeros)
            with torch.no_grad():
                own = {call: reader.delta(reader.layer(value)) for call, reader in zip(calls, known, strict=True)}
            parts = [self._flow.pull_back(call, {node: value}, delta)[node] for call, delta in own.items()]
            others = [self._pulled(user, node) for user in node.users if user in self._counts and user not in own]
            told = (
                None if any(p is None for p in others) else self._norms.size(node, value, noise, parts, others, lowest)
            )
            if told is None:
                self.patterns.forget(node)
                return False
            begin = value * told.size
        assert told is not None  # otherwise it has returned
        value, noise = value * told.size, noise * told.size
        self._derivatives.update({call: delta / told.size for call, delta in own.items()})
        self._derivatives.pop(node, None)
        if lowest is None or not bool(lowest.open(told).any()):
            self._learn(node, value, noise)
        else:
            self.patterns.learn(node, value, noise)
            self._open_constants[node] = lowest.open(told)
            noise = lowest.uncertain(told, value, noise)
        self._found[node] = (readers[0][0], PartialInput.whole(value, noise, whole.arrangement))
        return True

    def _fill_constants(self) -> None:
        """Constants that were open, by a forward pass from what was found below them."""
        for node, places in reversed(self._open_constants.items()):
            values = self._flow.forward(self._values, node)
            name, found = self._found[node]
            value = found.by_image(found.value)
            if node not in values:
                continue
            below = values[node]
            if agree(below, value, places, self._options.forgotten.same):
                noise = found.by_image(found.noise)
                value = torch.where(places, below, value)
                typical = noise[~places].mean() if bool((~places).any()) else noise.min()
                noise = torch.where(places, typical, noise)
                self._found[node] = (name, PartialInput.whole(value, noise, found.arrangement))
                self._values[node] = value

    def _learn(self, node: fx.Node, value: Tensor, noise: Tensor) -> None:
        """A value, and with it that of what it is a mere reshaping of."""
        while True:
            self._values[node] = value
            self.patterns.learn(node, value, noise)
            below = [n for n in node.all_input_nodes if n.op.startswith("call") and n in self._counts]
            same = len(below) == 1 and all(torch.equal(g[node].flatten(), g[below[0]].flatten()) for g in self._guesses)
            if not same:
                return
            node = below[0]
            value, noise = (t.reshape(self._guesses[0][node].shape) for t in (value, noise))
