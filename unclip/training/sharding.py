"""Weights and moments that FSDP keeps in pieces, one a process: whole again for files, and back in their pieces."""

import os

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


# layers that FSDP gathers one by one, and lets go again; all else it keeps whole during a step. The last is OpenCLIP's
BLOCKS = {"ResBlock", "AttentionBlock", "TransformerBlock", "ResidualAttentionBlock"}


def in_pieces(tensors: dict) -> bool:
    """Whether any of them is."""
    return any(isinstance(v, DTensor) for v in tensors.values())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its pieces, (..., ) as it would be without FSDP. All processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def wholes(tensors: dict) -> dict:
    """As `whole`, on the CPU where they were in pieces: several would not fit beside each other on a GPU."""
    return {k: v.full_tensor().cpu() if isinstance(v, DTensor) else v for k, v in tensors.items()}


def alike(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor as `place` is: on its device, in its memory format, and in pieces where that one is."""
    if isinstance(place, DTensor):
        return distribute_tensor(value.to(place.device), place.device_mesh, place.placements)
    return torch.empty_like(place, dtype=value.dtype).copy_(value)


@torch.no_grad()
def put_back(module, state):
    """What `load_state_dict` does, with whole tensors, or its own, into a module whose weights may be in pieces.

    Raises:
        RuntimeError: names or shapes that are not this module's.
    """
    places = module.state_dict()

    def fitting(name, value):
        fits = name in places and value.shape == places[name].shape and not isinstance(value, DTensor)
        return alike(value, places[name]) if fits else value

    module.load_state_dict({name: fitting(name, value) for name, value in state.items()})


def gather_for_methods(model):
    """Let layers that FSDP has in pieces be whole while what stands beside `forward` computes with their weights, too."""
    for module in model.modules():
        if isinstance(module, FSDPModule) and hasattr(module, "read"):
            register_fsdp_forward_method(module, "read")


def shard_on_cpu(accelerator):
    """Let FSDP work on processes without a GPU, where it was asked for: accelerate itself then takes DDP."""
    asked = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if asked and accelerator.distributed_type == DistributedType.MULTI_CPU:
        os.environ.setdefault("FSDP_VERSION", "2")
        plugin = FullyShardedDataParallelPlugin()
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        accelerator.state.fsdp_plugin, accelerator.state.distributed_type = plugin, DistributedType.FSDP
