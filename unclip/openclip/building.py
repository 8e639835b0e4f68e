"""New CLIPs, of OpenCLIP's own classes, and their way to disk."""

import json

from ..files import new_folder
from .folder import FOLDER_CONFIG, FOLDER_WEIGHTS
from .library import import_open_clip, refusals


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
