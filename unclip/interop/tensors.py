"""Foreign weights on disk: safetensors, or PyTorch's pickles where they hold tensors alone. Read one tensor at a time."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import UserError, first_line
from ..files import read_json

SAFE, PICKLES = ".safetensors", (".bin", ".ckpt", ".pt", ".pth", ".th")
ZIP, LEGACY = b"PK\x03\x04", b"\x80"  # how files begin that PyTorch saved, since 1.6 and before


class Tensors:
    """The tensors of a file, or of the several that an index names: a mapping that reads each when it is asked for.

    path: a `.safetensors` file, its `.index.json`, or a pickle, of which a Lightning checkpoint's `state_dict` is taken.
    tensors: what the file holds, where that is known already.

    Raises:
        UserError: no such file, a damaged one, or a pickle with anything but tensors in it.
    """

    def __init__(self, path, tensors=None):
        self.path = Path(path)
        self._at = dict.fromkeys(tensors or (), tensors)  # key -> the open file that has it
        for file in self._files() if tensors is None else ():
            opened = _open(file)
            self._at |= dict.fromkeys(opened.keys(), opened)

    def _files(self):
        if self.path.suffix != ".json":
            return [self.path]
        try:
            names = read_json(self.path)["weight_map"].values()
            return [self.path.parent / Path(name).name for name in sorted(set(names))]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{self.path} is no index of weights: copy it again") from None

    def keys(self):
        return self._at.keys()

    def __contains__(self, key):
        return key in self._at

    def __getitem__(self, key):
        """A tensor. Raises UserError where the file has none of that name."""
        if key not in self._at:
            raise UserError(f"{self.path} lacks {key}: it is another model, or a damaged copy")
        opened = self._at[key]
        return opened[key] if isinstance(opened, dict) else opened.get_tensor(key)

    def shape(self, key, rank):
        """Of a tensor, without reading it. Raises UserError where there is none of that name with so many axes."""
        opened = self._at.get(key)
        known = opened is None or isinstance(opened, dict)
        shape = tuple(self[key].shape if known else opened.get_slice(key).get_shape())
        if len(shape) != rank or 0 in shape:
            raise UserError(f"{self.path}: {key} is {'x'.join(map(str, shape)) or 'a number'}: it is another model")
        return shape


def _open(file):
    """safetensors' handle of a file, or a dict of memory-mapped tensors."""
    if not file.is_file():
        raise UserError(f"no file {file}: copy it again")
    if file.suffix == SAFE:
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({first_line(error)}): copy it again") from None
    if file.suffix not in PICKLES:
        raise UserError(f"{file} is no file of weights: they end in {SAFE} or {', '.join(PICKLES)}")
    loaded = load_pickle(file)
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in loaded.items()):
        raise UserError(f"{file} holds no table of tensors: it is another kind of file")
    return loaded


def load_pickle(file):
    """What PyTorch saved, read as data: nothing in the file is run.

    Raises:
        UserError: it holds more than tensors and plain values, is damaged, or not of PyTorch's.
    """
    with open(file, "rb") as opened:
        head = opened.read(len(ZIP))
    if head != ZIP and not head.startswith(LEGACY):
        raise UserError(f"{file} is damaged: no checkpoint begins like this (a download that failed?); copy it again")
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=head == ZIP)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error):
            raise UserError(f"{file} is damaged ({first_line(error)}): copy it again") from None
        raise UserError(
            f"{file} is a pickle with more than tensors in it, and reading it could run its code: refused; convert it to "
            "safetensors on a machine that you do not mind to lose"
        ) from None
    except Exception as error:  # a broken file can fail in any way
        raise UserError(f"{file} is damaged ({first_line(error)}): copy it again") from None
