"""What all processes of a training have of a batch, for losses that compare its samples with each other."""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather


def processes():
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(size):
    """Where the `size` samples of this process stand among those of all, a slice."""
    first = size * (dist.get_rank() if processes() > 1 else 0)
    return slice(first, first + size)


def gathered(tensor):
    """The (B, ...) tensors of all processes, one after the other: (W B, ...). Gradients go back to where each came from: to a
    process's own samples come those of every process's loss. All have B samples."""
    return torch.cat(all_gather(tensor.contiguous())) if processes() > 1 else tensor


def gathered_lists(batch, names):
    """Some lists of a batch, each with those of all processes one after the other."""
    own = {name: batch[name] for name in names}
    if processes() == 1:
        return own
    of_each = [None] * processes()
    dist.all_gather_object(of_each, own)
    return {name: [value for of_one in of_each for value in of_one[name]] for name in names}
