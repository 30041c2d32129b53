"""Rectifiers' patterns read off their outputs, and mended where they do not fit.

A rectifier was on where its output is not zero, and an output that is known to rounding may be too small to tell. A
wrong pattern shows in the residual of the layer below: other cuts between zero and not are tried, then single units
near the cut are flipped, and a residual at the gradient's own rounding is the certificate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakage_audit.equations.input_from_gradient import PartialInput
from leakage_audit.networks.dataflow import Dataflow, Values
from leakage_audit.options import Checked
from leakage_audit.runtime import Budget

Solve = Callable[[set[fx.Node]], tuple[PartialInput | None, float]]


@dataclass(frozen=True)
class PatternOptions(Checked):
    """How patterns are read.

    Attributes:
        cut: Entries of an input within this many standard deviations of zero are zero: one wrong unit in 1.7 million.
        others: Cuts that are tried where that one does not fit; noise is known to an order of magnitude.
        flips: Units nearest the cut that are flipped one by one.
        rounds: Units that may be flipped together, one after another.
    """

    cut: float = 5.0
    others: tuple[float, ...] = (1.0, 25.0, 125.0, 0.2, 600.0)
    flips: int = 24
    rounds: int = 4

    def __post_init__(self) -> None:
        self.check(positive=("cut",), not_negative=("flips", "rounds"))


class Patterns:
    """What rectifiers' outputs show of their slopes.

    Args:
        flow: The network's operations.
        guesses: Values of all operations at some images, by which rectifiers are known.
        options: How patterns are read.
    """

    def __init__(self, flow: Dataflow, guesses: Sequence[Values], options: PatternOptions) -> None:
        self._flow, self._guesses, self._options = flow, guesses, options
        self._known: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        self._cuts: dict[fx.Node, float] = {}
        self._flipped: dict[fx.Node, Tensor] = {}
        self._switched: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        self._rectifier: dict[fx.Node, bool] = {}

    def learn(self, node: fx.Node, value: Tensor, noise: Tensor) -> None:
        """An operation's output `(B, …)` and the standard deviation of its entries."""
        self._known[node] = value, noise.clamp_min(torch.finfo(value.dtype).tiny)

    def forget(self, node: fx.Node) -> None:
        """What was learnt of an operation."""
        self._known.pop(node, None)
        self._cuts.pop(node, None)
        self._flipped.pop(node, None)
        self._switched.pop(node, None)

    @property
    def cuts(self) -> tuple[float, ...]:
        """Those that may be tried."""
        return (self._options.cut, *self._options.others)

    def choose(self, node: fx.Node, cut: float) -> None:
        """Read an operation's output with this cut from now on."""
        self._cuts[node] = cut

    def switch(self, node: fx.Node, on: Tensor, off: Tensor) -> None:
        """Read an operation's output as on in some places, small as it may be there, and as off in others."""
        self._switched[node] = on, off

    def near(self, node: fx.Node) -> Tensor:
        """By what factor, as a logarithm, each entry is away from where it would count as off or on, `(B, …)`."""
        value, noise = self._known[node]
        return ((value.abs() / noise).clamp_min(1) / self._cuts.get(node, self._options.cut)).log().abs()

    def shown(self, node: fx.Node, cut: float | None = None) -> Tensor | None:
        """An input at which a rectifier has the slope that it had; None for others, and where it is not known.

        Rectifiers keep the sign of their input or make it zero, so that they have the same slope at their output.
        """
        return self.read(node, cut) if node in self._known and self.is_rectifier(node) else None

    def read(self, node: fx.Node, cut: float | None = None) -> Tensor:
        """A known output, with zeros where it counts as zero."""
        value, noise = self._known[node]
        cut = self._cuts.get(node, self._options.cut) if cut is None else cut
        off = value.abs() <= cut * noise
        shown = value.where(~off, 0.0)
        if node in self._switched:
            on, out = self._switched[node]
            shown = torch.where(on & off, noise, shown).where(~out, 0.0)
        if node in self._flipped:
            shown = torch.where(self._flipped[node], torch.where(off, noise, 0.0), shown)
        return shown

    def mend(
        self,
        calls: Sequence[fx.Node],
        derivatives: Mapping[fx.Node, Tensor | None],
        solve: Solve,
        residual: float,
        budget: Budget,
    ) -> PartialInput | None:
        """The input of layers below, at other patterns of the rectifiers right above.

        Args:
            calls: The layers.
            derivatives: ∂L/∂(output) of the operations above.
            solve: Solves anew with other patterns of some rectifiers; the input, if it fits, and the residual.
            residual: With the patterns as they are.
            budget: Time limit.
        """
        rectifiers = self._right_above(calls)
        if not rectifiers:
            return None
        tried = {self._options.cut: residual}
        for cut in self._options.others:
            if budget.exhausted:
                break
            self._cuts.update(dict.fromkeys(rectifiers, cut))
            found, tried[cut] = solve(rectifiers)
            if found is not None:
                return found
        best = min(tried, key=lambda cut: tried[cut])
        self._cuts.update(dict.fromkeys(rectifiers, best))
        solve(rectifiers)
        found = self._flip(rectifiers, derivatives, solve, tried[best], budget)
        if found is None:
            for node in rectifiers:
                self._cuts.pop(node, None)
                self._flipped.pop(node, None)
            solve(rectifiers)
        return found

    def _flip(
        self,
        rectifiers: set[fx.Node],
        derivatives: Mapping[fx.Node, Tensor | None],
        solve: Solve,
        residual: float,
        budget: Budget,
    ) -> PartialInput | None:
        """Flip the unit that helps most, and again."""
        units = []
        for node in rectifiers:
            value = self._known[node][0]
            above = derivatives.get(node)
            counts = torch.ones_like(value, dtype=torch.bool) if above is None else above != 0
            distance = self.near(node).where(counts, torch.inf).flatten()
            near = distance.argsort()[: self._options.flips].tolist()
            units += [(float(distance[place]), node, place) for place in near]
            self._flipped[node] = torch.zeros(value.shape, dtype=torch.bool, device=value.device)
        units = sorted(units, key=lambda unit: unit[0])[: self._options.flips]
        for _ in range(self._options.rounds):
            best: tuple[float, fx.Node, int] | None = None
            for _, node, place in units:
                if budget.exhausted:
                    return None
                flipped = self._flipped[node].view(-1)
                flipped[place] = ~flipped[place]
                found, new = solve({node})
                if found is not None:
                    return found
                flipped[place] = ~flipped[place]
                if new < (best[0] if best else residual):
                    best = new, node, place
            if best is None:
                break
            residual, node, place = best
            self._flipped[node].view(-1)[place] ^= True
        return None

    def picks(self, node: fx.Node) -> bool:
        """Whether an operation hands each derivative on to one entry of a rectifier's output, as max pooling does."""
        inputs = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if len(inputs) != 1 or not self.is_rectifier(inputs[0]) or self._guesses[0][node].ndim < 3:
            return False
        for guess in self._guesses:
            back = self._flow.pull_back(node, {inputs[0]: guess[inputs[0]]}, torch.ones_like(guess[node]))[inputs[0]]
            whole, count = back.flatten(2).sum(2), guess[node][0, 0].numel()
            if whole.shape != guess[node].shape[:2] or bool((back != back.round()).any() or (whole != count).any()):
                return False
        return True

    def _right_above(self, calls: Sequence[fx.Node]) -> set[fx.Node]:
        """The first rectifiers with a known output on the ways up from some layers."""
        found, left, met = set[fx.Node](), list(calls), set[fx.Node]()
        while left:
            node = left.pop()
            for user in node.users:
                if user in met:
                    continue
                met.add(user)
                if self.shown(user) is not None:
                    found.add(user)
                else:
                    left.append(user)
        return found

    def is_rectifier(self, node: fx.Node) -> bool:
        """Whether the slope at the output is that at the input, entry by entry, at guesses."""
        if node not in self._rectifier:
            inputs = [n for n in node.all_input_nodes if n.op != "get_attr"]
            self._rectifier[node] = len(inputs) == 1 and all(self._same(node, inputs[0], g) for g in self._guesses)
        return self._rectifier[node]

    def _same(self, node: fx.Node, below: fx.Node, guess: Values) -> bool:
        if guess[node].shape != guess[below].shape:
            return False
        ones = torch.ones_like(guess[node])
        one = self._flow.pull_back(node, {below: guess[below]}, ones)[below]
        return torch.equal(one, self._flow.pull_back(node, {below: guess[node]}, ones)[below])
