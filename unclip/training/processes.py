"""This process among those that train together, as accelerate sees it."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def on_cpu():
    """Whether to leave GPUs alone: as `accelerate launch --cpu` asks, or where several processes share none.

    Accelerate takes each of several processes without a GPU for the only one, unless it is told.
    """
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return parse_flag_from_env("ACCELERATE_USE_CPU") or (
        several and not torch.cuda.is_available() and not torch.xpu.is_available()
    )


def process():
    """Rank, number of processes, device; the first call sets the communication up."""
    return PartialState(cpu=on_cpu())
