"""A part of a model on disk: a folder (or hub id) with `config.json` and `model.safetensors`."""

import inspect
import json
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .bare import bare
from .errors import UserError, first_line, nearest
from .files import new_file
from .hub import model_folder

CONFIG, WEIGHTS = "config.json", "model.safetensors"


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
        they do on `device` in `dtype`, and the largest of them.

        Raises:
            UserError: nothing there, an unfinished folder, a file cut off, or weights that do not fit the config.
        """
        folder = model_folder(source)
        for needed in (CONFIG, WEIGHTS):
            if not (folder / needed).is_file():
                lacks = f"the folder {folder} is no finished {cls.__name__}: it lacks {needed}"
                raise UserError(f"{lacks}; copy or train it again")
        part = cls._from_config(folder / CONFIG)
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                state = {key: placed(file.get_tensor(key), device, dtype) for key in file.keys()}
        except SafetensorError as error:
            raise UserError(f"{folder / WEIGHTS} is damaged ({error}): copy or train it again") from None
        except torch.OutOfMemoryError:
            raise UserError(f"{folder} does not fit into the memory of {device}: use --offload, or --dtype bfloat16") from None
        try:
            part.load_state_dict(state, assign=True)
        except RuntimeError as error:  # torch names the weights from the second line on
            misfit = f"{folder / WEIGHTS} does not fit its {CONFIG} ({first_line(error, 2)})"
            raise UserError(f"{misfit}: copy or train it again") from None
        return part.eval()

    @classmethod
    def _from_config(cls, path):
        """The part that a config file describes, without weights: on the meta device."""
        known = list(inspect.signature(cls.__init__).parameters)[1:]  # without self
        try:
            config = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise UserError(f"{path} is damaged: copy or train the {cls.__name__} again") from None
        for key in config:
            if key not in known:
                raise UserError(f"{path}: unknown key {key!r}{nearest(key, known)}")
        try:
            with bare():
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
