"""Weights and moments that FSDP or ZeRO keeps in pieces, one a process: whole again for files, and back in their pieces."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from . import zero


# layers that FSDP gathers one by one, and lets go again; all else it keeps whole during a step. The last is OpenCLIP's
BLOCKS = {"ResBlock", "AttentionBlock", "TransformerBlock", "ResidualAttentionBlock"}


def divides_weights(accelerator) -> bool:
    """Whether each process is to have its piece of the weights."""
    kind = accelerator.distributed_type
    return kind == DistributedType.FSDP or kind == DistributedType.DEEPSPEED and accelerator.deepspeed_plugin.zero_stage == 3


def layout_for(accelerator):
    """The memory format of weights: FSDP and DeepSpeed take but one."""
    shares = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return torch.contiguous_format if shares else torch.channels_last


def prepared(accelerator, module, optimizer, config):
    """(module, optimizer) as they train on this run's processes. Raises UserError for what these cannot do."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return zero.prepare(accelerator, module, optimizer, config)
    module, optimizer = accelerator.prepare(module, optimizer)
    gather_for_methods(module)
    return module, optimizer


def live_state(module) -> dict:
    """What `state_dict` gives, the weights themselves, where they are in pieces: FSDP's in their shape, ZeRO-3's flat."""
    return {k: zero.piece(v) if zero.is_divided(v) else v.detach() for k, v in module.state_dict(keep_vars=True).items()}


def shape_of(tensor: Tensor):
    """A weight's shape, where ZeRO-3 has a placeholder for it, too."""
    return tensor.ds_shape if zero.is_divided(tensor) else tensor.shape


def in_pieces(tensors: dict) -> bool:
    """Whether any of them is."""
    return any(isinstance(v, DTensor) for v in tensors.values())


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its pieces, (..., ) as it would be without FSDP. All processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: dict, module) -> dict:
    """A module's weights, or others that are in pieces alike, as `whole`: in their shapes, and on the CPU where they were in
    pieces, since several would not fit beside each other on a GPU."""
    shapes = {k: shape_of(v) for k, v in module.state_dict(keep_vars=True).items()}
    return {k: v.view(shapes[k]) for k, v in wholes(state).items()}


def wholes(tensors: dict) -> dict:
    """As `whole`, on the CPU where they were in pieces."""
    return {k: v.full_tensor().cpu() if isinstance(v, DTensor) else v for k, v in tensors.items()}


def alike(value: Tensor, place: Tensor) -> Tensor:
    """A whole tensor as `place` is: on its device, in its memory format, and in pieces where that one is; as it was where
    DeepSpeed has to divide it."""
    if zero.is_divided(place):
        return value
    if isinstance(place, DTensor):
        return distribute_tensor(value.to(place.device).view(place.shape), place.device_mesh, place.placements)
    return torch.empty_like(place, dtype=value.dtype).copy_(value)


@torch.no_grad()
def put_back(module, state):
    """What `load_state_dict` does, with whole tensors, or its own, into a module whose weights may be in pieces.

    Raises:
        RuntimeError: names or shapes that are not this module's.
    """
    places = module.state_dict(keep_vars=True)
    if any(zero.is_shared(place) for place in places.values()):
        zero.put_back(places, state)
        return

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
    """Let FSDP or DeepSpeed work on processes without a GPU, where they were asked for: accelerate itself then takes DDP."""
    if accelerator.distributed_type != DistributedType.MULTI_CPU:
        return
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        zero.take_cpu(accelerator)
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        os.environ.setdefault("FSDP_VERSION", "2")
        plugin = FullyShardedDataParallelPlugin()
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        accelerator.state.fsdp_plugin, accelerator.state.distributed_type = plugin, DistributedType.FSDP
    PartialState().distributed_type = accelerator.distributed_type  # from where accelerate takes it again and again
