"""Modules made to be filled: without numbers, and without the time that drawing them takes."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode


MOST = 50_000  # weights, as tensors, that a module may have; the largest here have some thousand
NEW = (torch.empty, torch.zeros, torch.ones)  # how modules make their weights


class NoDraws(TorchFunctionMode):
    """While it lasts, nothing is drawn for new weights: `torch.nn.init` leaves them as they are.

    On the meta device drawing costs more than elsewhere: PyTorch imports its compiler for it, which takes a second or two.

    most: how many weights may be made. One more is a ValueError: weights without numbers take next to no memory, however
    large, but a million layers do.
    """

    def __init__(self, most):
        super().__init__()
        self.most, self.made = most, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        self.made += func in NEW
        if self.made > self.most:
            raise ValueError(f"it asks for more than {self.most} weights")
        return func(*args, **kwargs)


@contextlib.contextmanager
def bare(most=MOST):
    """While it lasts, modules are made on the meta device, to be given their weights by `load_state_dict(assign=True)`.

    most: how many weights they may have, such as a file holds; MOST at most. One more is a ValueError.
    """
    with torch.device("meta"), NoDraws(min(most, MOST)):
        yield
