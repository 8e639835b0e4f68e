"""The state of a run on disk: weights, averaged weights, optimizer moments and counters, all as safetensors and JSON.

`RUN/checkpoint/` is replaced as a whole, so that a run cut off while writing goes on from the checkpoint before.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import UserError
from ..files import new_folder

FOLDER = "checkpoint"


def save_checkpoint(run, model, ema, optimizer, counters):
    """Write the state of a run. counters: a dict of numbers (step, seconds, images)."""
    with new_folder(Path(run) / FOLDER) as folder:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
        save_file({k: v.contiguous() for k, v in ema.state.items()}, folder / "ema.safetensors")
        save_file(flatten(optimizer.state_dict()["state"]), folder / "optimizer.safetensors")
        (folder / "counters.json").write_text(json.dumps({**counters, "ema_steps": ema.steps}))


def load_checkpoint(run, model, ema, optimizer):
    """Put the state of a run back in place; the counters, or None where the run has no checkpoint.

    Raises:
        UserError: the checkpoint is of another model, or damaged.
    """
    folder = Path(run) / FOLDER
    if not folder.is_dir():
        return None
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
        ema.state = load_file(folder / "ema.safetensors", device=str(next(model.parameters()).device))
        saved = optimizer.state_dict()
        saved["state"] = unflatten(load_file(folder / "optimizer.safetensors"))
        optimizer.load_state_dict(saved)
        counters = json.loads((folder / "counters.json").read_text())
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot resume from {folder} ({reason}): give the run another name (--set train.run=...), or remove it"
        ) from None
    ema.steps = counters.pop("ema_steps")
    return counters


def flatten(state):
    """{index: {name: tensor or number}} -> {"index.name": tensor}."""
    return {f"{i}.{name}": torch.as_tensor(v).contiguous() for i, one in state.items() for name, v in one.items()}


def unflatten(tensors):
    state = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
