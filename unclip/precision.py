"""Where bfloat16 pays: in hardware. Elsewhere it is emulated, and float32 is many times as fast."""

import contextlib

import torch


def bfloat16_is_fast(device):
    """Whether a torch device (or "cuda", "cpu") computes in bfloat16, as far as it says; of any but these two: no.

    Measured on a processor of AVX2 alone, bfloat16 ran at an eighth of float32's speed in convolutions and below a
    hundredth in matrices.
    """
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor_has_bfloat16()


def processor_has_bfloat16():
    """Whether this processor has instructions for it (AVX-512 or AMX); a PyTorch that cannot tell is asked for AVX-512 alone."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return torch.backends.cpu.get_cpu_capability() == "AVX512"
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def chosen_dtype(name, device):
    """The name of the dtype to draw in on a device: "auto" is bfloat16 where it pays, and float32 elsewhere."""
    if name == "auto":
        return "bfloat16" if bfloat16_is_fast(device) else "float32"
    return name


def in_float32(device):
    """While it lasts, nothing on a torch device is computed in half precision, whatever surrounds it."""
    kind = torch.device(device).type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()
