"""Which machine a figure was measured on."""

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "diffusers", "open-clip-torch")


def machine(device="cpu"):
    """{"processor", "cores", "instructions", "memory_gib", "system", "versions", "date"}; what cannot be told is None.

    device: what is measured; of a CUDA GPU there is also {"card", "card_memory_gib", "cuda"}.
    """
    return {
        **card(device),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "date": date.today().isoformat(),
    }


def in_words(described):
    """A machine in a line, for tables and charts: its processor, after the GPU where that is what was measured."""
    processor = f"{described['cores']} cores of {described['processor']} ({described['instructions']})"
    if "card" in described:
        processor = f"{described['card']} ({described['card_memory_gib']} GiB, CUDA {described['cuda']}), {processor}"
    return f"{processor}, PyTorch {described['versions']['torch']}, {described['date']}"


def card(device):
    """What `machine` says of a CUDA GPU; of another device nothing."""
    if not str(device).startswith("cuda"):
        return {}
    memory = torch.cuda.get_device_properties(device).total_memory
    return {"card": torch.cuda.get_device_name(device), "card_memory_gib": round(memory / 2**30, 1), "cuda": torch.version.cuda}


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or None)


def memory_gib():
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def version_of(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
