"""A part of a model on disk: a folder (or hub id) with `config.json` and `model.safetensors`."""

import inspect
import json
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .bare import MOST, bare
from .config import check, signature_model
from .errors import UserError, first_line
from .files import new_file, read_json
from .hub import model_folder

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SPARE = 1000  # weights that a config may ask for beyond those of its file, so that the first that lacks can be named
FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors calls them


class Part(nn.Module):
    """Base of prior, decoder and upsampler. Its config is the constructor's keywords.

    It is saved, loaded and pushed as with Hugging Face's mixin, by methods of the same names. They are our own: the mixin's
    loading ignores unknown settings, prints to the standard output, and reads a pickle where a hub repository has no
    safetensors; and its library need not be imported to draw a picture.
    """

    def __new__(cls, **options):
        part = super().__new__(cls)
        part._options = {**cls._defaults(), **options}
        return part

    @classmethod
    def _defaults(cls):
        """The constructor's keywords that have a default, with it."""
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # without self
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    @classmethod
    def from_pretrained(cls, source, device="cpu", dtype=torch.float32):
        """Load a part from a local folder or a hub id, in eval mode.

        It is made without weights and gets them one by one from the mapped file, so that it takes no more memory than
        they do on `device` in `dtype`, and the largest of them. None is read before all are known to be what the config says:
        a file of a stranger's takes no more memory than it is long.

        Raises:
            UserError: nothing there, an unfinished folder, a file cut off, or weights that do not fit the config.
        """
        folder = model_folder(source)
        for needed in (CONFIG, WEIGHTS):
            if not (folder / needed).is_file():
                lacks = f"the folder {folder} is no finished {cls.__name__}: it lacks {needed}"
                raise UserError(f"{lacks}; copy or train it again")
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                part = cls._from_config(folder / CONFIG, len(file.keys()) + SPARE)
                if misfit := difference(part.state_dict(), file):
                    raise UserError(f"{folder / WEIGHTS} does not fit its {CONFIG}: {misfit}; copy or train it again")
                part.load_state_dict({key: placed(file.get_tensor(key), device, dtype) for key in file.keys()}, assign=True)
        except SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS} is damaged ({error}): copy or train it again") from None
        except torch.OutOfMemoryError:
            raise UserError(f"{folder} does not fit into the memory of {device}: use --offload, or --dtype bfloat16") from None
        return part.eval()

    @classmethod
    def _from_config(cls, path, most=MOST):
        """The part that a config file describes, without weights: on the meta device. most: how many it may have."""
        try:
            config = dict(read_json(path))
        except (ValueError, TypeError):
            raise UserError(f"{path} is damaged: copy or train the {cls.__name__} again") from None
        config = check(signature_model(cls), config, path).model_dump(exclude_unset=True)
        try:
            with bare(most):
                return cls(**config)
        except Exception as error:  # a file's values can be wrong in any way
            raise UserError(f"{path} describes no {cls.__name__}: {first_line(error, 2)}") from error

    @property
    def options(self):
        """The constructor's keywords that made this part."""
        return dict(self._options)

    def save(self, folder, dtype=torch.float16):
        """Write config and weights, in `dtype` (None: as they are). The files that were there stay until both are
        written; other files in the folder stay."""
        tensors = {k: v.contiguous() for k, v in self.state_dict().items()}
        if dtype is not None:
            tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        with new_file(Path(folder) / CONFIG) as config, new_file(Path(folder) / WEIGHTS) as weights:
            config.write_text(json.dumps(self.options, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            save_file(tensors, weights)

    def save_pretrained(self, folder):
        """Write config and weights, these in the dtype that they have."""
        self.save(folder, dtype=None)

    def push_to_hub(self, repo_id, *, private=None, token=None):
        """Upload what `save_pretrained` writes to a repository ORG/NAME of the Hugging Face hub, a new one if need be."""
        from huggingface_hub import HfApi

        hub = HfApi(token=token)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload_folder(repo_id=repo_id, folder_path=folder)

    @property
    def device(self):
        return next(self.parameters()).device

    @property
    def dtype(self):
        return next(self.parameters()).dtype


def placed(tensor, device, dtype):
    """A weight in its place. A copy of its own, so that whoever changes it does not meet the file."""
    return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)


def difference(wanted, file, names=None):
    """What first tells the weights in an open safetensors file from those that are wanted, {name: tensor}; None for nothing.

    Only the file's header is read. names: {name: what it is called in the file}, of all that is looked at; None: all.
    """
    held = names if names is not None else {key: key for key in file.keys()}
    for name, tensor in wanted.items():
        if name not in held:
            return f"it lacks {name}"
        there = file.get_slice(held[name])
        if there.get_shape() != list(tensor.shape):
            sizes = ("x".join(map(str, shape)) or "one number" for shape in (there.get_shape(), tensor.shape))
            return f"{name} is {' and not '.join(sizes)}"
        if there.get_dtype() not in FLOATS:
            return f"{name} is of {there.get_dtype()}, no floating-point numbers"
    beyond = sorted(held.keys() - wanted.keys())
    return f"it has {beyond[0]} besides" if beyond else None
