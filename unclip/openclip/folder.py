"""A CLIP on disk, as OpenCLIP lays it out; its text tower, where that is plain, is read without OpenCLIP."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from ..bare import bare
from ..errors import UserError
from ..files import read_json
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


class PlainFolder(NamedTuple):
    """A CLIP folder whose text tower is plain. model, preprocess: the parts of its config; file: the weights."""

    model: dict
    preprocess: dict
    file: Path

    def weights(self):
        """All weights by name, as they are in the file."""
        with safe_open(self.file, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}

    def text_tower(self, device):
        """A `TextTower` in float32 with the folder's weights, which are read alone, and once they are known to fit.

        Raises:
            UserError: they do not, or the tower knows fewer tokens than CLIP's tokenizer makes. Other errors: the config is of
                no tower, or the file damaged.
        """
        if self.model["text_cfg"]["vocab_size"] < VOCABULARY:
            raise UserError(f"{self.file}: its text tower knows fewer tokens than CLIP has, {VOCABULARY:,}: copy it again")
        with safe_open(self.file, framework="pt") as file:
            with bare(len(file.keys())):
                tower = TextTower(embed_dim=self.model["embed_dim"], **self.model["text_cfg"])
            names = {our_name(key): key for key in file.keys() if not key.startswith(("visual.", "logit_scale"))}
            if misfit := difference(tower.state_dict(), file, names):
                raise UserError(f"{self.file} does not fit its {FOLDER_CONFIG}: {misfit}; copy it again")
            state = {ours: placed(file.get_tensor(key), device, torch.float32) for ours, key in names.items()}
        tower.load_state_dict(state, assign=True)
        return tower.eval().requires_grad_(False)


def our_name(key):
    """The name in `TextTower` of a weight that OpenCLIP calls `key`."""
    for theirs, ours in TEXT_NAMES.items():
        key = key.replace(theirs, ours)
    return key


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
