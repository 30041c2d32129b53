"""Collectives that a user's code calls within an audit: none is entered that another rank will not come to.

A rank whose forward or unpack has failed, or that has fewer images to look at, would leave the others waiting for it
for ever. So before each collective the ranks tell each other where they are: at one as well, or done.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer

NAMES = (
    *("all_reduce", "reduce", "broadcast", "barrier", "all_gather", "all_gather_into_tensor", "gather", "scatter"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single"),
    *("all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"),
)


class RankMissing(Exception):
    """Another rank is done, and will not come to this collective."""


@contextmanager
def met(trainer: Trainer) -> Iterator[None]:
    """Run work that every rank runs; every collective in it waits for all of them, and so does the end.

    What is called through `torch.distributed` is looked after, also by batch normalisation over the ranks; a function
    that a module has imported from there by name before is not.

    Args:
        trainer: Says how many ranks there are.

    Raises:
        RankMissing: From a collective that not all ranks have come to.
    """
    if trainer.world_size == 1:
        yield
        return
    distributed: Any = torch.distributed
    own = {name: getattr(distributed, name) for name in NAMES if hasattr(distributed, name)}

    def everyone(at: str) -> set[str]:
        states: list[Any] = [None] * trainer.world_size
        own["all_gather_object"](states, at)
        return set(states)

    def waiting(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(collective)
        def call(*arguments: Any, **keywords: Any) -> Any:
            if len(everyone("collective")) > 1:
                raise RankMissing(f"another rank does not come to {name}: it failed, or runs the forward less often")
            return collective(*arguments, **keywords)

        return call

    try:
        for name, collective in own.items():
            setattr(distributed, name, waiting(name, collective))
        yield
    finally:
        for name, collective in own.items():
            setattr(distributed, name, collective)
        while len(everyone("end")) > 1:
            pass  # those that were at a collective have heard of it, and come to their own end
