"""DeepSpeed's ZeRO: stage 2 shares gradients and moments among processes, stage 3 weights, too.

Weights are float32, as without it, and layers compute in bfloat16 where they are told to. What DeepSpeed does at the end of its
backward pass by itself, the step, is told apart again here, so that the loop can look at loss and gradient before it.
"""

import functools
import math
import os

import torch
from accelerate.utils import DeepSpeedPlugin, DistributedType, compare_versions
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from ..errors import UserError
from .precision import chosen_precision

OLDEST = "0.19.8"  # which leaves out a step by itself whose gradient is not finite


def prepare(accelerator, module, optimizer, config):
    """What `accelerator.prepare` does: (module, optimizer), which `accelerator` knows how to train.

    config: a RunConfig, from which DeepSpeed is told all that would otherwise have to be said twice.

    Raises:
        UserError: what ZeRO cannot do.
    """
    plugin = accelerator.state.deepspeed_plugin
    check(plugin, config)
    plugin.deepspeed_config |= {
        "train_batch_size": config.train.batch_size * config.train.accumulate * accelerator.num_processes,
        "train_micro_batch_size_per_gpu": config.train.batch_size,
        "gradient_accumulation_steps": config.train.accumulate,
        "gradient_clipping": config.optimizer.clip_norm,
        "torch_autocast": {"enabled": chosen_precision(config.train.precision) == "bf16", "dtype": "bfloat16"},
        "bf16": {"enabled": False},
    }
    accelerator.gradient_accumulation_steps = config.train.accumulate
    groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    engine, wrapped = accelerator.prepare(module, optimizer)
    accelerator.deepspeed_engine_wrapped = shared = SharedOptimizer(engine, wrapped.optimizer, groups)
    return engine, shared


def check(plugin, config):
    """Raises UserError where ZeRO cannot do what is asked for."""
    if plugin.zero_stage not in (2, 3):
        raise UserError(f"DeepSpeed's ZeRO stage {plugin.zero_stage} is not supported: set zero_stage to 2 or 3")
    if plugin.hf_ds_config.is_offload():
        raise UserError("DeepSpeed's offload is not supported: set offload_optimizer_device and offload_param_device to none")
    if config.optimizer.name != "adamw":
        raise UserError(
            f"optimizer.name {config.optimizer.name} needs whole matrices, and DeepSpeed divides them: use "
            "--set optimizer.name=adamw with its learning rate, or configs/accelerate/nodes_fsdp.yaml"
        )
    if config.train.precision == "fp16":
        raise UserError("train.precision fp16 is not supported with DeepSpeed: use --set train.precision=bf16")
    if compare_versions("deepspeed", "<", OLDEST):
        raise UserError(f"this DeepSpeed is too old: pip install 'deepspeed>={OLDEST}'")


class SharedOptimizer:
    """The optimizer's few methods as the loop and checkpoints know them, with moments that processes share.

    Accelerate calls `backward` and `get_global_grad_norm` of it, too, for its own.

    engine: DeepSpeed's, of the module; zero: its optimizer, which has flat tensors of this process's share, and their moments;
    param_groups: with the module's parameters, whose learning rates count.
    """

    def __init__(self, engine, zero, param_groups):
        self.engine, self.zero, self.optimizer, self.param_groups = engine, zero, zero.optimizer, param_groups
        self.parameters, self.due = [p for group in param_groups for p in group["params"]], False

    def backward(self, loss, sync_gradients=True):
        """Add a loss's gradients, which the last one of a step reduces over all processes."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
        self.engine.backward(loss)
        self.due = sync_gradients

    def get_global_grad_norm(self):
        """Of the gradients of all processes, before they are clipped: a float, nan where they are not finite."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        divided = is_divided(self.parameters[0])
        norm = combine_grad_norm_groups(self.zero._get_norm_groups()) if divided else self.zero.scaled_global_norm()
        return float(norm) if math.isfinite(norm) else math.nan

    def step(self):
        for group, flat in zip(self.param_groups, self.zero.param_groups, strict=True):
            flat["lr"] = group["lr"]
        self.engine.step()
        self.due = False

    def zero_grad(self):
        """Forget gradients with which there was no step: DeepSpeed itself does so at a step with one that is no number."""
        if not self.due:
            return
        from deepspeed.utils import safe_set_full_grad, safe_set_local_grad

        spoilt = self.parameters[0]
        if is_divided(spoilt):
            safe_set_local_grad(spoilt, share(torch.full(spoilt.ds_shape, torch.nan), spoilt))
        else:
            safe_set_full_grad(spoilt, torch.full_like(spoilt, torch.nan))
        self.step()

    def state_dict(self):
        """{"state": {index: {name: whole tensor, or number of steps}}}, as torch's AdamW. All processes have to ask for it.

        Empty before the first step."""
        if not self.states():
            return {"state": {}}
        from deepspeed.utils import safe_get_full_optimizer_state

        self.link_states()
        first = self.states()[0]
        names = [name for name in first if name != "step"]
        return {"state": {
            index: {"step": first["step"].clone()} | {name: safe_get_full_optimizer_state(p, name).cpu() for name in names}
            for index, p in enumerate(self.parameters)
        }}  # fmt: skip

    def load_state_dict(self, saved):
        """Take what `state_dict` gave, here or in any other number of processes: each its share. Raises KeyError."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not saved["state"]:
            return
        self.begin_states()
        steps = max(float(moments["step"]) for moments in saved["state"].values())
        for state in self.states():
            state["step"].fill_(steps)
        for index, moments in saved["state"].items():
            for name, value in moments.items():
                p = self.parameters[index]
                if name != "step" and is_divided(p):
                    safe_set_local_optimizer_state(p, share(value, p), name)
                elif name != "step":
                    safe_set_full_optimizer_state(p, value.to(p.device), name)

    def states(self):
        """What torch's optimizer has of each of the flat tensors in which DeepSpeed has this process's share."""
        return list(self.optimizer.state.values())

    def begin_states(self):
        """Moments of zero: torch's optimizer makes them at its first step, here one of no length."""
        for group in self.zero.param_groups:
            group["lr"] = 0.0
        divided = is_divided(self.parameters[0])
        flat = self.zero.fp32_partitioned_groups_flat if divided else self.zero.single_partition_of_fp32_groups
        for number, tensor in enumerate(flat):
            tensor.grad = torch.zeros_like(tensor)
            self.zero._optimizer_step(number)
            tensor.grad = None
        self.link_states()

    def link_states(self):
        """Let stage 2 know where the moments of each weight are: by itself it knows it of the first group alone."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if not is_divided(self.parameters[0]):
            for group, flat in zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups):
                lazy_init_hp_params_optimizer_state(group, flat, self.optimizer.state)


def is_divided(tensor):
    """Whether ZeRO-3 has put a placeholder for this weight, and divided its numbers among the processes."""
    return hasattr(tensor, "ds_tensor")


def is_shared(tensor):
    """Whether this is a weight whose moments ZeRO divides, or which itself is divided."""
    return is_divided(tensor) or hasattr(tensor, "_hp_mapping")


def piece(parameter):
    """A divided weight's numbers (N,) in the order in which they stand in memory, of which this process has its share."""
    padded, rank = parameter.ds_tensor, torch.distributed.get_rank(parameter.ds_process_group)
    numel, size = parameter.ds_numel, padded.numel()
    own = padded[: max(0, min(size, numel - rank * size))]  # the rest is padding
    mesh = mesh_of(parameter.ds_process_group, padded.device.type)
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=torch.Size([numel]), stride=(1,))


@functools.cache
def mesh_of(group, kind):
    return DeviceMesh.from_group(group, kind)


def share(value, parameter):
    """Of a whole tensor of a divided weight's shape, this process's numbers, with zeros where it has no more."""
    rank, size = torch.distributed.get_rank(parameter.ds_process_group), parameter.ds_tensor.numel()
    own = value.flatten()[rank * size : (rank + 1) * size].to(parameter.ds_tensor)
    return torch.nn.functional.pad(own, (0, size - own.numel()))


@torch.no_grad()
def put_back(places, state):
    """Set weights and buffers, {name: as `state_dict(keep_vars=True)` has them}, to whole tensors, and with them the copies
    that DeepSpeed has of the weights, which are what learns. Raises RuntimeError for names or shapes of others."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
    from deepspeed.runtime.zero import GatheredParameters

    shapes = {name: getattr(place, "ds_shape", place.shape) for name, place in places.items()}
    given = {name: value.shape for name, value in state.items()}
    others = [name for name in sorted(shapes.keys() | given.keys()) if shapes.get(name) != given.get(name)]
    if others:
        raise RuntimeError(f"{others[0]} is missing, or of another model")
    for name, place in places.items():
        with GatheredParameters([place], modifier_rank=0):
            place.copy_(state[name])
        if is_divided(place):
            safe_set_local_fp32_param(place, place.ds_tensor)
        elif is_shared(place):
            safe_set_full_fp32_param(place, place)


def take_cpu(accelerator):
    """Make processes without a GPU, which accelerate has joined for DDP, DeepSpeed's."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(accelerator.mixed_precision)
    plugin.select(_from_accelerator_state=True)
    accelerator.state.deepspeed_plugins, accelerator.state.distributed_type = plugin, DistributedType.DEEPSPEED
    accelerator.native_amp = False
