"""Reading diffusers' folders of unCLIP's parts, a `config.json` and weights each, without diffusers.

A config is checked key by key: what would make another network than ours is refused by its name.
"""

import json
from pathlib import Path

import torch

from ..decoder import Decoder
from ..errors import UserError
from ..prior import DiffusionPrior
from ..upsampler import Upsampler
from .fill import fill, on_meta
from .names import DIFFUSERS, condition_rules, prior_rules, statistics_rules, unet_rules
from .tensors import Tensors

PRIOR, DECODER, CONDITION, FIRST, LAST = "prior", "decoder", "text_proj", "super_res_first", "super_res_last"
SCHEDULERS = {PRIOR: ("prior_scheduler", "scheduler"), DECODER: ("decoder_scheduler",), FIRST: ("super_res_scheduler",)}
WEIGHTS = "diffusion_pytorch_model"
# in the order in which they are looked for
WEIGHT_FILES = [f"{WEIGHTS}{end}" for end in (".safetensors", ".safetensors.index.json", ".bin", ".fp16.safetensors", ".fp16.bin")]
X_0_BOUND = 10.0  # Karlo's, where no scheduler says it

# What a config must say, where it says anything: our networks are none but these.
UNET_COMMON = {
    "act_fn": ("silu",), "norm_num_groups": (32,), "norm_eps": (1e-5,), "flip_sin_to_cos": (True,), "freq_shift": (0,),
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "mid_block_scale_factor": (1, 1.0),
    "downsample_type": ("conv",), "upsample_type": ("conv",),
}  # fmt: skip
MUST = {
    "PriorTransformer": {
        "time_embed_act_fn": ("silu",), "norm_in_type": (None,), "embedding_proj_norm_type": (None,),
        "encoder_hid_proj_type": ("linear",), "added_emb_type": ("prd",), "additional_embeddings": (3, 4),
    },
    "UNet2DConditionModel": {
        **UNET_COMMON, "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn",), "class_embed_type": ("identity",),
        "addition_embed_type": (None,), "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,),
        "only_cross_attention": (False, None), "cross_attention_norm": (None,), "time_cond_proj_dim": (None,),
        "time_embedding_dim": (None,), "time_embedding_act_fn": (None,), "timestep_post_act": (None,),
        "resnet_skip_time_act": (False,), "resnet_out_scale_factor": (1, 1.0), "num_attention_heads": (None,),
        "conv_in_kernel": (3,), "conv_out_kernel": (3,), "class_embeddings_concat": (False,), "in_channels": (3,),
        "out_channels": (3, 6),
    },
    "UnCLIPTextProjModel": {},
    "UNet2DModel": {
        **UNET_COMMON, "add_attention": (False,), "class_embed_type": (None,), "num_class_embeds": (None,),
        "attn_norm_num_groups": (None,), "in_channels": (6,), "out_channels": (3,),
    },
}  # fmt: skip
SCALE_SHIFT = {"scale_shift": True, "default": False}
PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}


def has_layout(folder, part=PRIOR):
    """Does a folder hold a part as diffusers saves it?"""
    return (Path(folder) / part / "config.json").is_file()


def read_prior(folder, subfolder=PRIOR):
    """A DiffusionPrior from PriorTransformer's folder; Karlo's, Kandinsky's and ECLIPSE's. Raises UserError; see `fill`."""
    at = Path(folder) / subfolder
    config = read_config(at, "PriorTransformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    embed_dim, diffusion = config["embedding_dim"], config.get("additional_embeddings", 4) == 4
    for key, only in (("time_embed_dim", width), ("clip_embed_dim", embed_dim)):
        if config.get(key) not in (None, only):
            raise UserError(f"{at / 'config.json'}: {key} is {config[key]}, but only {only} can be read")
    transformer = {
        "text_dim": embed_dim,
        "text_length": config["num_embeddings"],
        "text_embed_dim": config.get("embedding_proj_dim") or embed_dim,
        "width": width,
        "layers": config["num_layers"],
        "heads": config["num_attention_heads"],
        "time_token": diffusion,
    }
    options = scheduling(folder, PRIOR, "sample") if diffusion else {"clamp": None}
    prior = on_meta(DiffusionPrior, at, embed_dim=embed_dim, transformer=transformer, spacing="linspace", **options)
    tensors, rules = weights_of(at), prior_rules(prior, DIFFUSERS)
    if diffusion:
        return fill(prior, (rules + statistics_rules(), tensors))
    # ECLIPSE gives the embedding as it is, and leaves the statistics that it inherits at zero
    as_it_is = Tensors(at, {"clip_mean": torch.zeros(embed_dim), "clip_std": torch.ones(embed_dim)})
    return fill(prior, (rules, tensors), (statistics_rules(), as_it_is), ignore=("clip_mean", "clip_std"))


def read_decoder(folder):
    """A Decoder from the folders of the U-Net and of text_proj. Raises UserError; see `fill`."""
    folder = Path(folder)
    config = read_config(folder / DECODER, "UNet2DConditionModel")
    condition = read_config(folder / CONDITION, "UnCLIPTextProjModel")
    learned = config["out_channels"] == 6
    attended = "SimpleCrossAttnDownBlock2D"
    unet = unet_options(folder / DECODER, config, ("ResnetDownsampleBlock2D", attended)) | {
        "attention_levels": [i for i, block in enumerate(config["down_block_types"]) if block == attended],
        "middle_attention": True,
        "head_dim": config["attention_head_dim"],
        "context_dim": config["cross_attention_dim"],
    }
    decoder = on_meta(
        Decoder, folder / DECODER, unet=unet, image_size=config["sample_size"],
        embed_dim=condition.get("clip_embeddings_dim", 768), text_dim=condition.get("clip_embeddings_dim", 768),
        image_tokens=condition.get("clip_extra_context_tokens", 4), learned_variance=learned,
        vlb_weight=0.001 if learned else 0.0, spacing="linspace", **scheduling(folder, DECODER, "epsilon"),
    )  # fmt: skip
    return fill(
        decoder,
        (unet_rules(decoder.unet, DIFFUSERS), weights_of(folder / DECODER)),
        (condition_rules(decoder, DIFFUSERS), weights_of(folder / CONDITION)),
    )


def read_upsampler(folder, takes):
    """An Upsampler from the folders of its two U-Nets. takes: the side of what it enlarges. Raises UserError; see `fill`."""
    folder = Path(folder)
    config, other = (read_config(folder / each, "UNet2DModel") for each in (FIRST, LAST))
    same = ("block_out_channels", "layers_per_block", "sample_size", "resnet_time_scale_shift")
    if any(config.get(key) != other.get(key) for key in same):
        raise UserError(f"{folder}: {FIRST} and {LAST} are networks of two shapes")
    upsampler = on_meta(
        Upsampler, folder / FIRST, unet=unet_options(folder / FIRST, config, ("ResnetDownsampleBlock2D",)),
        image_size=config["sample_size"], scale=config["sample_size"] // takes, max_blur=0.0, max_noise=0.0,
        last_step=True, spacing="linspace", **scheduling(folder, FIRST, "epsilon"),
    )  # fmt: skip
    return fill(
        upsampler,
        (unet_rules(upsampler.unet, DIFFUSERS, "unet."), weights_of(folder / FIRST)),
        (unet_rules(upsampler.unet_last, DIFFUSERS, "unet_last."), weights_of(folder / LAST)),
    )


def unet_options(at, config, kinds):
    """A UNet's keywords but those of attention. kinds: the names that blocks on the way down may have."""
    down, up = config["down_block_types"], config["up_block_types"]
    mirrored = [block.replace("Down", "Up") for block in reversed(down)]
    if not set(down) <= set(kinds) or list(up) != mirrored:
        raise UserError(f"{at / 'config.json'}: blocks {', '.join([*down, *up])}: no such U-Net can be read")
    channels, layers = config["block_out_channels"], config["layers_per_block"]
    shift = config.get("resnet_time_scale_shift", "default")
    if shift not in SCALE_SHIFT or not isinstance(layers, int) or any(c % channels[0] for c in channels):
        raise UserError(f"{at / 'config.json'}: no such U-Net can be read (block_out_channels, layers_per_block, ...)")
    return {
        "channels": channels[0],
        "multipliers": [c // channels[0] for c in channels],
        "num_res_blocks": layers,
        "scale_shift": SCALE_SHIFT[shift],
        "dropout": config.get("dropout", 0.0),
    }


def read_config(at, kind):
    """A part's config.json.

    Raises:
        UserError: there is none, it is cut off, of another class, or describes a network that is not among ours.
    """
    path = at / "config.json"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise UserError(f"no file {path}: the folder lacks the part {at.name}; copy it again") from None
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: copy it again") from None
    if config.get("_class_name") != kind:
        raise UserError(f"{path} describes a {config.get('_class_name')}, not a {kind}: it is another model")
    for key, values in MUST[kind].items():
        if key in config and config[key] not in values:
            raise UserError(f"{path}: {key} is {config[key]!r}, but only {', '.join(map(repr, values))} can be read")
    return _Config(config, path)


class _Config(dict):
    """A config that says in one line which key it lacks."""

    def __init__(self, config, path):
        super().__init__(config)
        self.path = path

    def __missing__(self, key):
        raise UserError(f"{self.path} lacks {key}: copy it again")


def scheduling(folder, part, prediction):
    """A part's keywords about its process, from its scheduler's folder: prediction, num_timesteps and, of a prior, clamp.

    prediction: what holds where there is no such folder.
    """
    config, at = {}, None
    for name in SCHEDULERS[part]:
        at = Path(folder) / name / "scheduler_config.json"
        if at.is_file():
            try:
                config = dict(json.loads(at.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                raise UserError(f"{at} is damaged: copy it again") from None
            break
    if config.get("_class_name", "UnCLIPScheduler") != "UnCLIPScheduler":
        raise UserError(f"{at} describes a {config['_class_name']}, not an UnCLIPScheduler: it is another model")
    kind = config.get("prediction_type", prediction)
    if kind not in PREDICTIONS:
        raise UserError(f"{at}: prediction_type is {kind!r}, but only {', '.join(PREDICTIONS)} can be read")
    options = {"prediction": PREDICTIONS[kind], "num_timesteps": config.get("num_train_timesteps", 1000)}
    if part == PRIOR:
        options["clamp"] = config.get("clip_sample_range", X_0_BOUND) if config.get("clip_sample", True) else None
    return options


def weights_of(at):
    """The `Tensors` of a part's folder. Raises UserError where it has no weights."""
    for name in WEIGHT_FILES:
        if (at / name).is_file():
            return Tensors(at / name)
    raise UserError(f"{at} has no weights ({WEIGHTS}.safetensors): copy it again")
