"""Where a parameter is added to a tensor entry by entry, its gradient is the derivative there, whatever lies above.

This holds for one image (docs/method.md, section 8). A position embedding is one case, the bias of a fully connected
layer that is fed one vector another. Nothing is read off the network's structure: operations on parameters are watched
as the network runs, and one counts as an addition if the parameter's own gradient at a few guesses of the image *is*
the derivative that autograd finds behind it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leakage_audit.observation import Observation


@dataclass(frozen=True)
class _Part:
    """Entries of a parameter, each at most once: rows that were looked up, if any, and a strided view of these."""

    rows: Tensor | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def __call__(self, values: Tensor) -> Tensor:
        """The same entries of a tensor shaped like the parameter."""
        values = values if self.rows is None else values[self.rows]
        return values.contiguous().as_strided(self.shape, self.stride, self.offset)


@dataclass
class _Site:
    """An operation on part of a parameter, with the derivative behind it at the guesses, `(guesses, …)`."""

    name: str
    part: _Part
    derivative: Tensor | None = None
    holds: bool = False


class AddedParameters(TorchFunctionMode):
    """A context around a network's call; `set_known` then puts the derivatives that additions give away in their place.

    Args:
        seen: What leaked of one image.
        network: Its network as a function of the image; its parameters are made to require gradients.
        guesses: How many guesses of the image it is called with at once, two at least.
        same: Relative difference below which two derivatives are the same.

    >>> from leakage_audit.observation import observe
    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3))
    >>> seen = observe(network, torch.rand(1, 3, 2, 2), 0)
    >>> guesses = torch.rand(4, 3, 2, 2, requires_grad=True)
    >>> with AddedParameters(seen, network, 4, 1e-6) as added:
    ...     scores = network(guesses)
    >>> added.set_known(scores)
    ['1.bias', '3.bias']
    >>> slopes = torch.autograd.grad(scores.sum(), guesses)[0].flatten(1)  # those of the image, whatever is guessed
    >>> torch.allclose(slopes, seen.gradients["1.bias"] @ network[1].weight, atol=1e-6)
    True
    """

    def __init__(self, seen: Observation, network: nn.Module, guesses: int, same: float) -> None:
        super().__init__()
        self._gradients, self._guesses, self._same = seen.gradients, guesses, same
        own = dict(network.named_parameters())
        self._own = {name: own[name].requires_grad_() for name in seen.gradients if own[name].is_contiguous()}
        self._stored: dict[int, tuple[str, Tensor | None]] = {
            p.untyped_storage().data_ptr(): (name, None) for name, p in self._own.items()
        }
        self._looked_up: list[Tensor] = []  # kept, as the place of a tensor that is gone may be another's
        self._sites: list[_Site] = []
        self._checked = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation, and note which parameters it is given."""
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        if func is F.embedding:
            places, table = args[:2]
            name, rows = self._stored.get(table.untyped_storage().data_ptr(), ("", None))
            if name and rows is None:
                self._looked_up.append(result)
                self._stored[result.untyped_storage().data_ptr()] = name, places
        elif result.ndim > 1 and len(result) == self._guesses:
            for operand in (*args, *(kwargs or {}).values()):
                if isinstance(operand, Tensor) and operand.requires_grad:
                    self._note(operand, result)
        return result

    def _note(self, operand: Tensor, result: Tensor) -> None:
        place, shape = operand.untyped_storage().data_ptr(), result.shape[1:]
        if place not in self._stored or place == result.untyped_storage().data_ptr():
            return
        name, rows = self._stored[place]
        if operand.ndim == 1 and operand.numel() == shape.numel():
            operand = operand.reshape(shape)  # a bias
        try:
            each = operand.expand_as(result)
        except RuntimeError:
            return
        if each.stride(0) or any(step == 0 for step, size in zip(each.stride()[1:], shape, strict=True) if size > 1):
            return
        offset = each.storage_offset() - (self._own[name].storage_offset() if rows is None else 0)
        site = _Site(name, _Part(rows, tuple(shape), tuple(map(int, each.stride()[1:])), int(offset)))
        self._sites.append(site)
        result.register_hook(lambda derivative: self._visit(site, derivative))

    def _visit(self, site: _Site, derivative: Tensor) -> Tensor | None:
        if not self._checked:
            site.derivative = derivative.detach()
        elif site.holds:
            return site.part(self._gradients[site.name]).expand_as(derivative)
        return None

    def set_known(self, scores: Tensor) -> list[str]:
        """From now on, derivatives that are walked back from here or above become those of the observed step.

        Args:
            scores: What the network made of the guesses.

        Returns:
            The parameters that gave one away.
        """
        names = sorted({site.name for site in self._sites})
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(scores.shape, generator=generator, dtype=scores.dtype).to(scores.device)
        found = (
            torch.autograd.grad(scores, [self._own[n] for n in names], direction, retain_graph=True, allow_unused=True)
            if names
            else ()
        )
        gradients = dict(zip(names, found, strict=True))
        for site in self._sites:
            gradient, derivative = gradients[site.name], site.derivative
            site.derivative = None
            if gradient is not None and derivative is not None and site.part(self._gradients[site.name]).any():
                apart = float((site.part(gradient) - derivative.sum(0)).norm())
                site.holds = apart <= self._same * float(derivative.sum(0).norm())
        self._checked = True
        return sorted({site.name for site in self._sites if site.holds})

    def forget(self) -> None:
        """Leave derivatives as they are walked back again."""
        for site in self._sites:
            site.holds = False
