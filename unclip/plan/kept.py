"""How many bytes autograd keeps between the forward and the backward pass."""

import torch


class Kept:
    """Counts what is saved for the backward pass while it lasts (`with Kept(model):`), every storage once.

    Parameters and buffers of the model are not counted: they are there anyway. bytes: so far.
    """

    def __init__(self, model):
        self.owned = {key_of(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self.bytes = 0
        self.storages = {}  # held, so that no other storage is taken for one that is gone
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)

    def pack(self, tensor):
        key = key_of(tensor)
        if key not in self.owned and key not in self.storages:
            self.storages[key] = tensor.untyped_storage()
            self.bytes += self.storages[key].nbytes()
        return tensor

    def bytes_of(self, tensors):
        """How many of them are these tensors'."""
        return sum(self.storages[key].nbytes() for key in {key_of(tensor) for tensor in tensors} & self.storages.keys())

    def __enter__(self):
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def key_of(tensor):
    return tensor.untyped_storage()._cdata
