"""Count the operations after which the host would wait for a GPU."""

from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"_local_scalar_dense", "equal", "is_nonzero"}  # item, bool, int, float and `if` of a tensor
SIZES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "bincount"}
COPIES = ("cpu", "tolist")  # a CPU tensor's do not reach the dispatcher


class CountWaits(TorchDispatchMode):
    """count: reads of a value, sizes that depend on values (nonzero, boolean indices), copies to the host.

    On a CPU none of them waits, so they are counted by name.
    """

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.paused = False
        self.patches = ExitStack()

    @property
    def count(self) -> int:
        return len(self.found)

    def __enter__(self):
        for name in COPIES:
            self.patches.enter_context(patch.object(torch.Tensor, name, self._counted(name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.close()
        return super().__exit__(*error)

    def pausing(self, function):
        """The function, without what it does: it works on tensors that stay on the host."""

        def paused(*args, **kwargs):
            before, self.paused = self.paused, True
            try:
                return function(*args, **kwargs)
            finally:
                self.paused = before

        return paused

    def _note(self, name: str) -> None:
        if not self.paused:
            self.found.append(name)

    def _counted(self, name: str):
        method = getattr(torch.Tensor, name)

        def counted(tensor, *args, **kwargs):
            self._note(name)
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        if name in READS | SIZES or any(x is not None and x.dtype == torch.bool for x in indices):
            self._note(name)
        return func(*args, **(kwargs or {}))
