"""How much memory tensors take while something runs, seen from outside: every storage that an operation makes."""

import gc

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations within have made, those that are alive at once.

    Attributes:
        peak: At most.
        largest: Entries of the largest tensor of each type.
    """

    def __init__(self, *there):
        super().__init__()
        self.peak, self.largest = 0, {}
        self._made, self._before = {}, set()
        self.leave_out(*there)

    def leave_out(self, *there):
        """Tensors that are somebody else's, though operations may make views of them."""
        self._before |= {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(found)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._before:
                    self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.largest[tensor.dtype] = max(self.largest.get(tensor.dtype, 0), tensor.numel())
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return found

    def __enter__(self):
        gc.collect()
        return super().__enter__()
