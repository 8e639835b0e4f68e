"""Where bfloat16 pays: in hardware. Elsewhere it is emulated, and float32 is many times as fast."""

import contextlib

import torch


def bfloat16_is_fast(device):
    """Whether a torch device (or "cuda", "cpu") computes in bfloat16, as far as it says; of any but these two: no.

    Measured on a processor of AVX2 alone, bfloat16 ran at an eighth of float32's speed in convolutions and below a
    hundredth in matrices; on an Intel Xeon whose host hides AMX, the pocket's decoder draws at 0.6 of it, and trains at 0.65.
    """
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor_is_fast_in_bfloat16()


def processor_is_fast_in_bfloat16():
    """Whether it has AMX or, where it is not Intel's, bfloat16 in AVX-512: Intel's multiplies no faster for that.

    A PyTorch that does not list instructions is asked for AVX-512 alone.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return torch.backends.cpu.get_cpu_capability() == "AVX512"
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "Intel" not in has.get("cpu_name", "")))


def chosen_dtype(name, device):
    """The name of the dtype to draw in on a device: "auto" is bfloat16 where it pays, and float32 elsewhere."""
    if name == "auto":
        return "bfloat16" if bfloat16_is_fast(device) else "float32"
    return name


def in_float32(device):
    """While it lasts, nothing on a torch device is computed in half precision, whatever surrounds it."""
    kind = torch.device(device).type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()
