"""A CLIP on disk, as OpenCLIP lays it out; its towers, where they are plain, are read without OpenCLIP."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from ..bare import bare
from ..errors import UserError
from ..files import read_json
from ..networks.image_tower import CSPDARKNETS, ImageTower
from ..networks.text_tower import TextTower
from ..part import difference, placed

FOLDER_CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")
TEXT_SETTINGS = {"context_length", "vocab_size", "width", "heads", "layers"}  # all of a plain text tower
VOCABULARY = 49_408  # tokens that CLIP's tokenizer makes
TEXT_NAMES = {  # parts of the names of its weights, in OpenCLIP's CLIP and in `TextTower`
    "transformer.resblocks.": "blocks.",
    "positional_embedding": "positions",
    "text_projection": "projection",
    "ln_final": "norm_out",
    "ln_1": "norm_1",
    "ln_2": "norm_2",
    "attn.in_proj_": "qkv.",
    "attn.out_proj": "proj_out",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}
IMAGE_SETTINGS = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}  # beside a name and a size
IMAGE_NAMES = {  # parts of the names of its weights, in OpenCLIP's wrapper of timm's CSPDarknet and in `ImageTower`
    "visual.trunk.": "",
    "visual.head.proj": "projection",
    "stem.conv1": "stem.0",
    "stem.conv2": "stem.1",
    "conv_down": "down",
    "conv_exp": "expand",
    "conv_transition": "merge",
    "conv1": "conv_1",
    "conv2": "conv_2",
    "bn.weight": "scale",
    "bn.bias": "shift",
    "bn.running_mean": "mean",
    "bn.running_var": "variance",
}
LARGEST_VIEW = 2048  # the side that pictures are scaled to
COUNTER = "num_batches_tracked"  # of a batch norm: tells training how far it is, and nobody else


class PlainFolder(NamedTuple):
    """A CLIP folder whose text tower is plain. model, preprocess: the parts of its config; file: the weights."""

    model: dict
    preprocess: dict
    file: Path

    def weights(self):
        """All weights by name, as they are in the file."""
        with safe_open(self.file, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}

    def logit_scale(self):
        """As FrozenCLIP's. Raises some Exception where the file has no such number."""
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor("logit_scale").float().exp().item()

    def text_tower(self, device):
        """A `TextTower` in float32 with the folder's weights, which are read alone, and once they are known to fit.

        Raises:
            UserError: they do not, or the tower knows fewer tokens than CLIP's tokenizer makes. Other errors: the config is of
                no tower, or the file damaged.
        """
        if self.model["text_cfg"]["vocab_size"] < VOCABULARY:
            raise UserError(f"{self.file}: its text tower knows fewer tokens than CLIP has, {VOCABULARY:,}: copy it again")
        options = {"embed_dim": self.model["embed_dim"], **self.model["text_cfg"]}
        return self._filled(TextTower, options, text_name, device)

    @property
    def image_is_plain(self):
        """Whether its image tower is one of `CSPDARKNETS`, with no other settings, and told how pixels are scaled."""
        vision = self.model["vision_cfg"]
        if not isinstance(vision, dict):
            return False
        named = {"timm_model_pretrained": False, **vision}
        name, size = named.pop("timm_model_name", None), named.pop("image_size", None)
        known = isinstance(name, str) and name in CSPDARKNETS and type(size) is int and named == IMAGE_SETTINGS
        return known and all(is_color(self.preprocess.get(key)) for key in ("mean", "std"))

    @property
    def image_size(self):
        return self.model["vision_cfg"]["image_size"]

    @property
    def pixel_stats(self):
        return tuple(self.preprocess["mean"]), tuple(self.preprocess["std"])

    def image_tower(self, device):
        """An `ImageTower`, read as `text_tower` is; None where the image tower is not plain.

        Raises:
            UserError: the weights do not fit, or pictures are scaled to more than LARGEST_VIEW. Other errors: as above.
        """
        if not self.image_is_plain:
            return None
        if not 1 <= self.image_size <= LARGEST_VIEW:  # a stranger's file shall not take any memory it likes
            raise UserError(f"{self.file.with_name(FOLDER_CONFIG)}: image_size is no number from 1 to {LARGEST_VIEW:,}: copy it again")
        width, depths = CSPDARKNETS[self.model["vision_cfg"]["timm_model_name"]]
        options = {"embed_dim": self.model["embed_dim"], "width": width, "depths": depths}
        return self._filled(ImageTower, options, image_name, device)

    def _filled(self, kind, options, our_name, device):
        """A tower kind(**options) with its weights. our_name: what it calls a weight of the file; None for others' weights."""
        with safe_open(self.file, framework="pt") as file:
            with bare(len(file.keys())):
                tower = kind(**options)
            names = {ours: key for key in file.keys() if (ours := our_name(key)) is not None}
            if misfit := difference(tower.state_dict(), file, names):
                raise UserError(f"{self.file} does not fit its {FOLDER_CONFIG}: {misfit}; copy it again")
            state = {ours: placed(file.get_tensor(key), device, torch.float32) for ours, key in names.items()}
        tower.load_state_dict(state, assign=True)
        return tower.eval().requires_grad_(False)


def text_name(key):
    """The name in `TextTower` of a weight that OpenCLIP calls `key`; None for one of another part."""
    return None if key.startswith(("visual.", "logit_scale")) else renamed(key, TEXT_NAMES)


def image_name(key):
    """The same in `ImageTower`."""
    return renamed(key, IMAGE_NAMES) if key.startswith("visual.") and not key.endswith(COUNTER) else None


def renamed(key, names):
    for theirs, ours in names.items():
        key = key.replace(theirs, ours)
    return key


def is_color(value):
    """Whether a config's value is a number for each of red, green and blue."""
    small = 1000  # which infinity, NaN and an integer that no float holds are not
    return isinstance(value, list) and len(value) == 3 and all(type(n) in (int, float) and abs(n) < small for n in value)


def plain_folder(name):
    """The `PlainFolder` that a name as `model_name` gives it means; None for any other CLIP.

    Raises some Exception where the folder's config is damaged.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") or not (folder / FOLDER_WEIGHTS[0]).is_file():  # what OpenCLIP reads first
        return None
    config = read_json(folder / FOLDER_CONFIG)
    model = config["model_cfg"]
    if set(model) != {"embed_dim", "vision_cfg", "text_cfg"} or set(model["text_cfg"]) != TEXT_SETTINGS:
        return None
    return PlainFolder(model, config.get("preprocess_cfg", {}), folder / FOLDER_WEIGHTS[0])
