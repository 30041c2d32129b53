"""The global streams of random numbers, and how they are kept while an audit runs."""

import random
from collections.abc import Iterator
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
