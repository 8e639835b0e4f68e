"""A part of a model on disk: a folder (or hub id) with `config.json` and `model.safetensors`."""

import json
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from torch import nn

from .errors import UserError
from .files import new_folder


class Part(nn.Module, PyTorchModelHubMixin):
    """Base of prior and decoder: Hugging Face's mixin, made strict. Its config is the constructor's keywords."""

    @classmethod
    def from_pretrained(cls, source, **options):
        """Load a part from a local folder or a hub id; float32, in eval mode.

        Raises:
            UserError: nothing there, an unfinished folder, a file cut off, or weights that do not fit the config.
        """
        folder = Path(source)
        if folder.exists() or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
            for needed in ("config.json", "model.safetensors"):
                if not (folder / needed).is_file():
                    raise UserError(f"the folder {folder} is no finished {cls.__name__}: it lacks {needed}")
        try:
            return super().from_pretrained(str(source), strict=True, **options)
        except (SafetensorError, json.JSONDecodeError) as error:
            raise UserError(f"{source} is damaged ({error}): copy or train it again") from None
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{source} does not fit {cls.__name__}: {first_line(error)}") from None
        except OSError as error:
            raise UserError(f"cannot fetch {source}: {first_line(error)}") from None

    def save(self, folder, state=None, dtype=torch.float16):
        """Write the folder whole or not at all, in `dtype`; `state`: other weights than the module's own."""
        from safetensors.torch import save_file

        state = self.state_dict() if state is None else state
        tensors = {k: v.to(dtype).contiguous() if v.is_floating_point() else v for k, v in state.items()}
        with new_folder(folder) as temporary:
            text = json.dumps(self._hub_mixin_config, indent=2, sort_keys=True)
            (temporary / "config.json").write_text(text + "\n")
            save_file(tensors, temporary / "model.safetensors")

    @property
    def device(self):
        return next(self.parameters()).device

    @property
    def dtype(self):
        return next(self.parameters()).dtype


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch names the keys from the second line on
    return " ".join(lines[:2])[:300] if lines else type(error).__name__
