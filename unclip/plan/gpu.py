"""What a GPU would do with a network that is run on meta tensors, which have shapes and no numbers.

PyTorch chooses by device what a mixed-precision pass computes in half precision, and by which kernel it attends; on the meta
device it does neither. Here both choices are made as on CUDA.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# Of PyTorch's lists for autocast on CUDA (docs, "CUDA Ops that can autocast"), those that the networks call.
HALF = {F.linear, F.conv2d, F.multi_head_attention_forward, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}
FULL = {F.group_norm, F.layer_norm, F.softmax, torch.softmax, torch.Tensor.softmax}


class AsOnGPU(TorchFunctionMode):
    """While it lasts, meta tensors are cast as `torch.autocast` casts on CUDA, and attention keeps no scores.

    half: the dtype of mixed precision; None: everything is in float32. casts: {id of a weight: the weight in half precision},
    each made once, as autocast does.
    """

    def __init__(self, half=None):
        super().__init__()
        self.half, self.casts = half, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.half and (func in HALF or func is F.scaled_dot_product_attention):
            args, kwargs = tree_map(self.halved, (args, kwargs))
        elif self.half and func in FULL:
            args, kwargs = tree_map(full, (args, kwargs))
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        return func(*args, **kwargs)

    def over(self, function):
        """A function that is called in this mode, wherever that is."""

        def call(*args):
            with self:
                return function(*args)

        return call

    def halved(self, x):
        """A float32 tensor in half precision; anything else as it is."""
        if not (torch.is_tensor(x) and x.dtype == torch.float32):
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(self.half)
        if id(x) not in self.casts:
            self.casts[id(x)] = x.to(self.half)
        return self.casts[id(x)]


def full(x):
    """A tensor of half precision in float32; anything else as it is."""
    return x.float() if torch.is_tensor(x) and x.is_floating_point() else x


def attention(q, k, v, attn_mask=None):                                                 # (B, heads, N or M, D)
    """As `F.scaled_dot_product_attention`, by the kernel that CUDA has for any mask: what it keeps for its backward pass is
    what goes in, what comes out, and a number a row. (The other kernels on CUDA keep the same.)"""
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=q.dtype).expand(*q.shape[:-1], k.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[0]
