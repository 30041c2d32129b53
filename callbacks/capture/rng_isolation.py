"""The global streams of random numbers, and how they are kept while an audit runs."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RngState:
    """The states of torch's (CPU and CUDA), numpy's and Python's global generators at one moment."""

    cpu: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def capture(cls) -> "RngState":
        """The states now; draws nothing, and wakes no CUDA device that is asleep."""
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())  # noqa: NPY002

    def restore(self) -> None:
        """Put the generators back to these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


@contextmanager
def isolated() -> Iterator[None]:
    """Run with gradients on, and leave generators, grad mode and default type as they were, whatever happens.

    Lightning's `isolate_rng` has no `finally`: an attack that raises would leave the streams moved.
    """
    before, dtype = RngState.capture(), torch.get_default_dtype()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        before.restore()


@contextmanager
def kept_generators(*owners: Any) -> Iterator[None]:
    """Leave the generators of data modules, loaders, samplers and data sets as they were, whatever is drawn from them.

    Args:
        owners: Where to look; data sets are looked through, not copied.
    """
    kept = [(generator, generator.get_state()) for generator in _generators(owners, 6, set())]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state(state)


def _generators(value: Any, depth: int, met: set[int]) -> Iterator[torch.Generator]:
    if id(value) in met or depth == 0:
        return
    met.add(id(value))
    if isinstance(value, torch.Generator):
        yield value
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value[:64]  # lists of samples hold no generators
    elif hasattr(value, "__dict__") and not isinstance(value, Tensor | type):
        parts = [part for name, part in vars(value).items() if name not in ("_trainer", "trainer")]
    for part in parts:
        yield from _generators(part, depth - 1, met)
