"""The state of a run on disk: weights, averaged weights, optimizer moments and counters, all as safetensors and JSON.

`RUN/checkpoints/` has one folder a checkpoint, named by its step. Each is written aside, synced to the disk and then renamed,
so that what is there is whole, whenever a run was cut off; of the newest, `train.keep_checkpoints` stay. Weights and moments
are kept whole, however many processes have shared them, so that any number of processes goes on with them.
"""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..config import read_yaml, save_config
from ..errors import UserError
from ..files import new_folder, read_json, read_text, sync
from .same_run import difference
from .sharding import alike, live_state, put_back, shape_of, whole_state, wholes

FOLDER = "checkpoints"


def saved_in(folder):
    """The folders of the checkpoints that a run's FOLDER has, the oldest first; none, where it is not there."""
    return sorted(p for p in folder.glob("*") if p.name.isdigit()) if folder.is_dir() else []


class Checkpoints:
    """The checkpoints of a run, and what they are of.

    run: its folder; config: its RunConfig; model, ema, optimizer: what they save and put back; scaler: of the loss, in fp16;
    processes: how many train.
    """

    def __init__(self, run, config, model, ema, optimizer, scaler=None, processes=1):
        self.folder, self.config, self.processes = Path(run) / FOLDER, config, processes
        self.model, self.ema, self.optimizer, self.scaler = model, ema, optimizer, scaler

    def saved(self):
        """The folders of the checkpoints, the oldest first."""
        return saved_in(self.folder)

    def save(self, counters, write=True):
        """Write the state of the run. All processes have to call it; those with write=False only give their pieces.

        counters: what JSON can hold, with the step; it comes back from `load`.
        """
        notes = {
            **counters,
            "processes": self.processes,
            "ema_steps": self.ema.steps,
            "optimizer": kind(self.optimizer),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }
        parts = {
            "model": lambda: whole_state(live_state(self.model), self.model),
            "ema": lambda: whole_state(self.ema.state, self.model),
            "optimizer": lambda: wholes(flatten(self.optimizer.state_dict()["state"])),
        }  # made one after the other: all of them would not fit beside each other
        with new_folder(self.folder / f"{counters['step']:08d}") if write else nullcontext() as folder:
            for name, part in parts.items():
                tensors = part()
                if write:
                    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
            if write:
                (folder / "counters.json").write_text(json.dumps(notes))
                save_config(self.config, folder / "config.yaml")
                sync(folder)
        if write:
            sync(self.folder)
            for old in self.saved()[: -self.config.train.keep_checkpoints]:
                shutil.rmtree(old)

    def load(self):
        """Put the newest state of the run back in place; its counters, or None where the run has no checkpoint.

        Raises:
            UserError: the checkpoint is of another config, model or optimizer, or damaged.
        """
        if not self.saved():
            return None
        folder = self.saved()[-1]
        try:
            counters, before = read_json(folder / "counters.json"), read_yaml(read_text(folder / "config.yaml"))
            other = difference(before, counters.pop("processes"), self.config, self.processes)
            if other is not None:
                raise UserError(
                    f"{folder} is of another config: {other}; set it back, give the run another name (--set train.run=...), or, "
                    f"if that is meant, change it in {folder / 'config.yaml'}"
                )
            steps, optimizer = counters.pop("ema_steps"), counters.pop("optimizer")
            if optimizer != kind(self.optimizer):
                raise ValueError(f"it was trained with {optimizer}")
            put_back(self.model, load_file(folder / "model.safetensors"))
            self.ema.load(load_file(folder / "ema.safetensors"), steps)
            load_optimizer(self.optimizer, unflatten(load_file(folder / "optimizer.safetensors")))
            scaling = counters.pop("scaler")
            if self.scaler is not None and scaling:
                self.scaler.load_state_dict(scaling)
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            older = ", and the one before is used" if len(self.saved()) > 1 else ""
            raise UserError(
                f"cannot resume from {folder} ({reason}): give the run another name (--set train.run=...), or remove that "
                f"folder{older}"
            ) from None
        return counters

    def clear_away(self):
        """Remove what a run that was killed while writing has left."""
        for left in self.folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)


def load_optimizer(optimizer, state):
    """Put saved moments back, in their parameters' memory format. Raises ValueError where they are of others."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in state.items():
        for name, value in moments.items():
            if value.ndim and (index >= len(parameters) or value.shape != shape_of(parameters[index])):
                raise ValueError("its optimizer state is of another model")
            if value.ndim:
                moments[name] = alike(value, parameters[index])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def kind(optimizer):
    """The optimizer's class, also where accelerate has wrapped it."""
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def flatten(state):
    """{index: {name: tensor or number}} -> {"index.name": tensor}."""
    return {f"{i}.{name}": torch.as_tensor(v) for i, one in state.items() for name, v in one.items()}


def unflatten(tensors):
    state = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
