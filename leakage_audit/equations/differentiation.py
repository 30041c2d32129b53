"""Jacobians of functions column by column, under a clock."""

import warnings
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.func import vmap

from leakage_audit.runtime import Budget


def columns_of(f: Callable[[Tensor], Tensor], at: Tensor, chunk: int, budget: Budget, kind: str) -> Tensor:
    """The Jacobian of a function, `(m, n)`, in forward mode.

    Args:
        f: From `(n,)` to `(m,)`.
        at: Where, `(n,)`.
        chunk: Columns at a time.
        budget: Time limit.
        kind: Of the columns, which are foreseen by what others of their kind took.

    Raises:
        TimeoutError: If the time is up before all passes are made.

    >>> import torch
    >>> columns_of(lambda x: x.square(), torch.tensor([1.0, 3.0]), 2, Budget(), "columns")
    tensor([[2., 0.],
            [0., 6.]])
    """
    columns: list[Tensor] = []
    load_forward_mode()
    for units in unit_vectors(len(at), chunk, at):
        budget.foresee(len(at) - chunk * len(columns), kind)
        with budget.work(len(units), kind):
            columns.append(vmap(lambda v: forward_product(f, at, v))(units).detach())
    return torch.cat(columns).T


def forward_product(f: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """The Jacobian of a function at `at (n,)` times `direction (n,)`, in forward mode."""
    with warnings.catch_warnings():
        # torch's own forward mode still loads its rules through the deprecated torch.jit.script.
        warnings.simplefilter("ignore", FutureWarning)
        return torch.func.jvp(f, (at,), (direction,))[1]


@cache
def load_forward_mode() -> None:
    """Load torch's rules of forward mode, a second's work of a process's first product.

    For whoever is about to time one: what follows would be foreseen at six times what it takes.
    """
    forward_product(torch.sin, torch.zeros(1), torch.ones(1))


def unit_vectors(size: int, chunk: int, like: Tensor) -> Iterator[Tensor]:
    """The unit vectors of a space, `chunk` at a time."""
    for start in range(0, size, chunk):
        count = min(chunk, size - start)
        yield torch.eye(count, size, dtype=like.dtype, device=like.device).roll(start, 1)
