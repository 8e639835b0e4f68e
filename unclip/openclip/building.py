"""New CLIPs, of OpenCLIP's own classes, and their way to disk."""

import json
import math

from safetensors import safe_open

from ..bare import bare
from ..errors import UserError
from ..files import new_folder, read_json
from .folder import FOLDER_CONFIG, FOLDER_WEIGHTS
from .library import import_open_clip, refusals

SPARE, SPARE_NUMBERS = 1000, 1_000_000  # of tensors and numbers that a model may have beyond: masks, positions


def build_clip(config):
    """A new CLIP with random weights, of OpenCLIP's own classes.

    config: OpenCLIP's model config (embed_dim, vision_cfg, text_cfg, ...). A `timm_model_name` in vision_cfg makes a
    timm image tower.

    Raises:
        UserError: OpenCLIP refuses the config.
    """
    open_clip = import_open_clip()
    config = dict(config)
    custom = config.pop("custom_text", False) or "hf_model_name" in config.get("text_cfg", {})
    with refusals("the CLIP config"):
        if custom and "multimodal_cfg" in config:
            return open_clip.CoCa(**config)
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)


def check_size(folder):
    """See that the config of an OpenCLIP folder makes no larger model than its weights are, before any memory is taken.

    Up to twice the size passes: OpenCLIP reads older names and shapes, which only it knows, and says what does not fit.

    Raises:
        UserError: it does. Other errors: the folder is damaged.
    """
    file = next(folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file())
    with safe_open(file, framework="pt") as weights:
        held = [math.prod(weights.get_slice(key).get_shape()) for key in weights.keys()]
    with bare(2 * len(held) + SPARE):
        model = build_clip(read_json(folder / FOLDER_CONFIG)["model_cfg"])
    asked = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if asked > 2 * sum(held) + SPARE_NUMBERS:
        raise UserError(f"{folder / FOLDER_CONFIG} asks for {asked:,} numbers, {file.name} holds {sum(held):,}: copy it again")


def save_clip(state, config, pixel_stats, folder):
    """Write an OpenCLIP folder, which plain `open_clip.create_model_and_transforms("local-dir:...")` loads.

    state: the model's tensors; config: as for `build_clip`; pixel_stats: (mean, std), three numbers each, of pixels
    in 0..1.
    """
    from safetensors.torch import save_file

    mean, std = pixel_stats
    preprocess = {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "resize_mode": "shortest"}
    with new_folder(folder) as temporary:
        text = json.dumps({"model_cfg": dict(config), "preprocess_cfg": preprocess}, indent=2)
        (temporary / FOLDER_CONFIG).write_text(text + "\n")
        save_file({k: v.contiguous() for k, v in state.items()}, temporary / FOLDER_WEIGHTS[0])
