"""The state of a run on disk: weights, averaged weights, optimizer moments and counters, all as safetensors and JSON.

`RUN/checkpoint/` is replaced as a whole, so that a run cut off while writing goes on from the checkpoint before.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import UserError
from ..files import new_folder

FOLDER = "checkpoint"


def save_checkpoint(run, model, ema, optimizer, counters, scaler=None):
    """Write the state of a run.

    counters: a dict of numbers (step, seconds, images); scaler: of the loss, in fp16.
    """
    notes = {
        **counters,
        "ema_steps": ema.steps,
        "optimizer": kind(optimizer),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    with new_folder(Path(run) / FOLDER) as folder:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        save_file({k: v.contiguous() for k, v in ema.state.items()}, folder / "ema.safetensors")
        save_file(flatten(optimizer.state_dict()["state"]), folder / "optimizer.safetensors")
        (folder / "counters.json").write_text(json.dumps(notes))


def load_checkpoint(run, model, ema, optimizer, scaler=None):
    """Put the state of a run back in place; the counters, or None where the run has no checkpoint.

    Raises:
        UserError: the checkpoint is of another model or optimizer, or damaged.
    """
    folder, before = Path(run) / FOLDER, Path(run) / f".{FOLDER}.old"
    if before.is_dir() and not folder.exists():
        os.replace(before, folder)  # the run was killed in the moment between two renames
    if not folder.is_dir():
        return None
    try:
        counters = json.loads((folder / "counters.json").read_text())
        steps, saved = counters.pop("ema_steps"), counters.pop("optimizer", kind(optimizer))
        if saved != kind(optimizer):
            raise ValueError(f"it was trained with {saved}")
        model.load_state_dict(load_file(folder / "model.safetensors"))
        ema.load(load_file(folder / "ema.safetensors"), steps)
        load_optimizer(optimizer, unflatten(load_file(folder / "optimizer.safetensors")))
        scaling = counters.pop("scaler", None)
        if scaler is not None and scaling:
            scaler.load_state_dict(scaling)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot resume from {folder} ({reason}): give the run another name (--set train.run=...), or remove it"
        ) from None
    return counters


def load_optimizer(optimizer, state):
    """Put saved moments back, in their parameters' memory format. Raises ValueError where they are of others."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in state.items():
        for name, value in moments.items():
            if value.ndim and (index >= len(parameters) or value.shape != parameters[index].shape):
                raise ValueError("its optimizer state is of another model")
            if value.ndim:
                moments[name] = torch.empty_like(parameters[index], dtype=value.dtype).copy_(value)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def kind(optimizer):
    """The optimizer's class, also where accelerate has wrapped it."""
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def flatten(state):
    """{index: {name: tensor or number}} -> {"index.name": tensor}."""
    return {f"{i}.{name}": torch.as_tensor(v).contiguous() for i, one in state.items() for name, v in one.items()}


def unflatten(tensors):
    state = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
