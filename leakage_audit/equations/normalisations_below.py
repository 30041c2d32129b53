"""A rectifier's output held against ∂L/∂β of the normalisation below it: its size, and which of its units were on.

Each channel's sum is one equation more, of which most hold at the right size (`forgotten_by_statistics`). Where one
does not, a unit near the cut between zero and not was read wrongly: the one whose switch makes the sum agree, to the
error that the others have.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from leakage_audit.equations.forgotten_by_statistics import ForgottenOptions, Lowest, Size, common_size
from leakage_audit.equations.rectifier_pattern import Patterns
from leakage_audit.networks.dataflow import Dataflow
from leakage_audit.observation import Observation


class NormalisationsBelow:
    """Normalisations in training mode, and what the one below a rectifier tells of the rectifier's output.

    Args:
        seen: What leaked.
        flow: Its network's operations.
        patterns: Of its rectifiers.
        options: When a size counts as told.
    """

    def __init__(self, seen: Observation, flow: Dataflow, patterns: Patterns, options: ForgottenOptions) -> None:
        self._seen, self._flow, self._patterns, self._options = seen, flow, patterns, options

    def of(self, node: fx.Node) -> tuple[_BatchNorm, Tensor, Tensor] | None:
        """The one that an operation calls, with the gradients of its shift and scale."""
        module = self._flow.module(node)
        if not isinstance(module, _BatchNorm) or not module.training or self._flow.call(str(node.target)) is None:
            return None
        shift, scale = (self._seen.gradient_of(str(node.target), kind) for kind in ("bias", "weight"))
        return None if shift is None or scale is None else (module, shift, scale)

    def size(
        self,
        node: fx.Node,
        value: Tensor,
        noise: Tensor,
        free: list[Tensor],
        fixed: list[Tensor | None],
        lowest: Lowest | None,
    ) -> Size | None:
        """The common size of a rectifier's output, and the state of its lowest places.

        What comes by way of normalised layers is inverse to the size, what comes by others does not depend on it; both
        add up to a sum that was shared.

        Args:
            node: The rectifier.
            value: Its output, of any size, `(B, C, …)`.
            noise: Standard deviation of its entries.
            free: Derivatives there that are inverse to the size.
            fixed: Those that are not.
            lowest: Entries that may be on or off, channel by channel.
        """
        below = node.all_input_nodes
        sources = [*below, *(n for b in below for n in b.all_input_nodes)]
        shifts = [norm[1] for source in sources if (norm := self.of(source)) is not None]
        picks = self._patterns.picks(node)
        if not shifts or len(below) != 1 or not (picks or self._patterns.is_rectifier(node)):
            return None
        self._patterns.forget(node)
        self._patterns.learn(node, value, noise)
        places = lowest.places if lowest is not None else torch.zeros_like(value).bool()
        best, chosen, missed = None, 0.0, value
        totals = [sum((p for p in parts if p is not None), torch.zeros_like(value)) for parts in (free, fixed)]

        def sums(shown: Tensor) -> list[Tensor]:
            """What the rectifier hands down of both parts at the pattern shown, `(B, C, …)`."""
            if picks:  # to one place of each window, at which the rectifier is on if the maximum is not zero
                return [total.where(shown != 0, 0.0) for total in totals]
            return [self._flow.pull_back(node, {below[0]: shown}, total)[below[0]] for total in totals]

        axes = (0, *range(2, value.ndim))
        for cut in self._patterns.cuts:
            shown = self._patterns.read(node, cut)
            states = [sums(state) for state in (shown, torch.where(places, noise, shown))]
            varies, stays = (torch.stack([state[i].sum(axes) for state in states]) for i in range(2))
            for shift in shifts:
                told = common_size(varies, shift - stays, self._options) if len(shift) == len(stays[0]) else None
                if told is not None and (best is None or told.share > best.share):
                    best, chosen, missed = told, cut, told.missed(varies, shift - stays)
        if best is not None:
            self._patterns.choose(node, chosen)
            on, off = (
                handed[0] / best.size + handed[1]
                for handed in (sums(torch.ones_like(value)), sums(torch.zeros_like(value)))
            )
            self._mend(node, best, missed, on - off, best.on(places))
        return best

    def _mend(self, node: fx.Node, told: Size, missed: Tensor, effect: Tensor, on: Tensor) -> None:
        """Switch units near the cut such that the sums of channels agree that do not.

        Args:
            node: The rectifier.
            told: The size.
            missed: By how much each channel's sum is too large, `(C,)`.
            effect: What a unit adds to its channel's sum when it is on, `(B, C, …)`.
            on: Units that are on in any case, `(B, C, …)`.
        """
        shown, distance = self._patterns.read(node), self._patterns.near(node)
        lit, off = (shown != 0) | on, torch.zeros_like(on)
        change = torch.where(lit, -effect, effect)
        for channel in told.wrong.nonzero()[:, 0].tolist():
            units = distance[:, channel].flatten().argsort()
            apart, own = distance[:, channel].flatten()[units], change[:, channel].flatten()[units]
            singles = torch.eye(int((apart < math.log(self._options.doubt)).sum()), len(units)).to(own)
            several = torch.tensor(list(itertools.product((0.0, 1.0), repeat=min(self._options.near, len(units)))))
            several = F.pad(several.to(own), (0, len(units) - several.shape[1]))
            for choices in (singles, several[several.sum(1) > 1]):  # the fewest first
                left = (missed[channel] + choices @ own).abs()
                if len(left) and float(left.min()) < told.usual * self._options.tight:
                    chosen = units[choices[left.argmin()] > 0]
                    flipped = torch.zeros_like(lit[:, channel]).flatten()
                    flipped[chosen] = True
                    flipped = flipped.view_as(lit[:, channel])
                    on[:, channel] = torch.where(flipped, ~lit[:, channel], on[:, channel])
                    off[:, channel] |= flipped & lit[:, channel]
                    break
        self._patterns.switch(node, on, off)
