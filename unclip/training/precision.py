"""Where bfloat16 pays: in hardware. Elsewhere it is emulated, and float32 is many times as fast."""

import torch

from .processes import on_cpu


def bfloat16_is_fast():
    """Whether what trains here, a GPU or this processor, computes in bfloat16.

    Measured on a processor of AVX2 alone, bfloat16 ran at an eighth of float32's speed in convolutions and below a
    hundredth in matrices.
    """
    if torch.cuda.is_available() and not on_cpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def chosen_precision(precision):
    """`train.precision` as accelerate has it: "no" (float32), "bf16" or "fp16"; auto is one of the first two."""
    if precision == "auto":
        return "bf16" if bfloat16_is_fast() else "no"
    return precision
