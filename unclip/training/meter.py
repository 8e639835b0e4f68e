"""How fast a training goes, what it waits for, and what memory it takes."""

import time
from contextlib import contextmanager

import psutil
import torch

GIB = 2**30


class Meter:
    """Time and samples since the last `figures`. device: on which the training runs."""

    def __init__(self, device):
        self.device = device
        self._begin()

    def _begin(self):
        self.seconds, self.waited, self.images = 0.0, 0.0, 0

    @contextmanager
    def waiting(self):
        """Around what waits for data."""
        begin = time.monotonic()
        yield
        self.waited += time.monotonic() - begin

    def step(self, seconds, images):
        """A step is over: how long it took, in seconds, and how many samples it had in all processes."""
        self.seconds, self.images = self.seconds + seconds, self.images + images

    @property
    def rate(self):
        """Samples a second, of all processes."""
        return self.images / max(self.seconds, 1e-9)

    def figures(self):
        """{"images_per_second", "waiting_for_data": share of the time, "memory_gib": of this process}; what is
        measured begins anew."""
        figures = {
            "images_per_second": self.rate,
            "waiting_for_data": self.waited / max(self.seconds, 1e-9),
            "memory_gib": memory(self.device) / GIB,
        }
        self._begin()
        return figures


def memory(device):
    """Bytes that this process holds: the most so far on the GPU that it trains on, or what it has in memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
