"""In what a training computes."""

import torch

from ..precision import bfloat16_is_fast
from .processes import on_cpu


def bfloat16_trains_fast():
    """Whether what trains here, a GPU or this processor, computes in bfloat16."""
    return bfloat16_is_fast("cuda" if torch.cuda.is_available() and not on_cpu() else "cpu")


def chosen_precision(precision):
    """`train.precision` as accelerate has it: "no" (float32), "bf16" or "fp16"; auto is one of the first two."""
    if precision == "auto":
        return "bf16" if bfloat16_trains_fast() else "no"
    return precision
