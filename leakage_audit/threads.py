"""One pool of threads at a time.

torch, numpy and scipy each bring a BLAS with threads of its own, and idle threads spin for a while before they sleep.
Work that goes back and forth between them has every core contended for: measured on two cores, c(M) of the eight
variants takes 7.0 s with all pools at two threads and 3.2 s with numpy's and scipy's at one.
"""

from contextlib import AbstractContextManager
from functools import cache

import scipy.linalg  # noqa: F401  loaded before the controller looks for libraries
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def single_blas() -> AbstractContextManager:
    """A context in which numpy's and scipy's BLAS use one thread; afterwards as many as before. torch keeps its own."""
    return _controller().limit(limits=1, user_api="blas")
