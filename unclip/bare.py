"""Modules made to be filled: without numbers, and without the time that drawing them takes."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode


class NoDraws(TorchFunctionMode):
    """While it lasts, nothing is drawn for new weights: `torch.nn.init` leaves them as they are.

    On the meta device drawing costs more than elsewhere: PyTorch imports its compiler for it, which takes a second or two.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def bare():
    """While it lasts, modules are made on the meta device, to be given their weights by `load_state_dict(assign=True)`."""
    with torch.device("meta"), NoDraws():
        yield
