"""Karlo's own checkpoints (kakaobrain/karlo): `.ckpt` files without a config. What a network is, its shapes tell."""

import re
from pathlib import Path

import torch

from ..decoder import Decoder
from ..errors import UserError
from ..prior import DiffusionPrior
from ..upsampler import Upsampler
from .fill import fill, on_meta
from .names import KARLO, condition_rules, prior_rules, statistics_rules, unet_rules
from .tensors import Tensors, load_pickle

FILES = {
    "prior": "prior-ckpt-step=01000000-of-01000000.ckpt",
    "statistics": "ViT-L-14_stats.th",
    "decoder": "decoder-ckpt-step=01000000-of-01000000.ckpt",
    "upsampler": "improved-sr-ckpt-step=1.2M.ckpt",
}
HEAD_DIM = 64  # of every attention; no shape tells it
DECODER_SIDE, SCALE = 64, 4
MODEL, FIRST_STEPS, LAST_STEP = "model.", "model_first_steps.", "model_last_step."
X_0_BOUND = 10.0
# as Karlo samples, and diffusers after it
DEFAULTS = {
    "num_inference_steps": 25,
    "guidance_scale": 8.0,
    "sampler": "ddpm",
    "prior_num_inference_steps": 25,
    "prior_guidance_scale": 4.0,
    "prior_num_samples": 1,
    "prior_sampler": "ddpm",
    "upsampler_num_inference_steps": 7,
}


def has_layout(folder):
    """Does a folder hold Karlo's own checkpoints?"""
    return (Path(folder) / FILES["prior"]).is_file()


def read_prior(folder):
    """Karlo's prior, with the statistics of CLIP's image embeddings. Raises UserError; see `fill`."""
    return prior_of(Tensors(Path(folder) / FILES["prior"]), read_statistics(Path(folder) / FILES["statistics"]))


def read_decoder(folder):
    """Karlo's decoder. Raises UserError; see `fill`."""
    return decoder_of(Tensors(Path(folder) / FILES["decoder"]))


def read_upsampler(folder, takes):
    """Karlo's upsampler, whose last step has a network of its own. takes: the side of what it enlarges. Raises UserError."""
    return upsampler_of(Tensors(Path(folder) / FILES["upsampler"]), takes)


def read_statistics(path):
    """The pair (mean, std) of CLIP's image embeddings that Karlo saves, under diffusers' names."""
    if not path.is_file():
        raise UserError(f"no file {path}: copy it again")
    pair = load_pickle(path)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(torch.is_tensor(each) for each in pair):
        raise UserError(f"{path} is no pair of mean and deviation: copy it again")
    return Tensors(path, {"clip_mean": pair[0], "clip_std": pair[1]})


def prior_of(tensors, statistics):
    """A DiffusionPrior from `Tensors` under Karlo's names."""
    width, embed_dim = tensors.shape(f"{MODEL}clip_img_proj.weight", 2)
    blocks = {m[1] for key in tensors.keys() if (m := re.match(rf"{MODEL}transformer\.resblocks\.(\d+)\.", key))}
    transformer = {
        "text_dim": tensors.shape(f"{MODEL}text_enc_proj.weight", 2)[1],
        "text_length": tensors.shape(f"{MODEL}positional_embedding", 3)[1] - 4,
        "text_embed_dim": tensors.shape(f"{MODEL}text_emb_proj.weight", 2)[1],
        "width": width,
        "layers": len(blocks),
        "heads": width // HEAD_DIM,
    }
    prior = on_meta(
        DiffusionPrior, tensors.path, embed_dim=embed_dim, transformer=transformer, clamp=X_0_BOUND, spacing="linspace"
    )
    return fill(prior, (prior_rules(prior, KARLO, MODEL), tensors), (statistics_rules(), statistics))


def decoder_of(tensors):
    """A Decoder from `Tensors` under Karlo's names."""
    context_dim, text_dim = tensors.shape(f"{MODEL}text_seq_proj.0.weight", 2)
    decoder = on_meta(
        Decoder, tensors.path, unet=unet_options(tensors, MODEL, attention=True), image_size=DECODER_SIDE,
        embed_dim=tensors.shape(f"{MODEL}cf_param", 1)[0], text_dim=text_dim,
        image_tokens=tensors.shape(f"{MODEL}clip_tok_proj.weight", 2)[0] // context_dim,
        prediction="eps", learned_variance=True, vlb_weight=0.001, spacing="linspace",
    )  # fmt: skip
    return fill(decoder, ([*unet_rules(decoder.unet, KARLO, prefix=MODEL), *condition_rules(decoder, KARLO, MODEL)], tensors))


def upsampler_of(tensors, takes):
    """An Upsampler from `Tensors` under Karlo's names."""
    upsampler = on_meta(
        Upsampler, tensors.path, unet=unet_options(tensors, FIRST_STEPS, attention=False), image_size=SCALE * takes,
        scale=SCALE, max_blur=0.0, max_noise=0.0, last_step=True, prediction="eps", spacing="linspace",
    )  # fmt: skip
    first = unet_rules(upsampler.unet, KARLO, "unet.", FIRST_STEPS)
    return fill(upsampler, (first + unet_rules(upsampler.unet_last, KARLO, "unet_last.", LAST_STEP), tensors))


def unet_options(tensors, prefix, attention):
    """A UNet's keywords, read off the shapes of its tensors; those of attention where it may have any."""
    channels = tensors.shape(f"{prefix}input_blocks.0.0.weight", 4)[0]
    out_blocks = {int(m[1]) for key in tensors.keys() if (m := re.match(rf"{prefix}output_blocks\.(\d+)\.", key))}
    seconds = [k for k in sorted(out_blocks) if _is_block(tensors, f"{prefix}output_blocks.{k}.1")]
    thirds = [k for k in sorted(out_blocks) if _is_block(tensors, f"{prefix}output_blocks.{k}.2")]
    levels = 1 + len(seconds) + len(thirds)  # each level but the last ends with a block that upsamples
    per_level = len(out_blocks) // levels
    multipliers = [_width(tensors, f"{prefix}output_blocks.{(levels - 1 - i) * per_level}.0") // channels for i in range(levels)]
    embed = tensors.shape(f"{prefix}middle_block.0.emb_layers.1.weight", 2)[0]
    options = {
        "channels": channels,
        "multipliers": multipliers,
        "num_res_blocks": per_level - 1,
        "scale_shift": embed == 2 * _width(tensors, f"{prefix}middle_block.0"),
    }
    if not attention:
        return options
    attended = [i for i in range(levels) if f"{prefix}output_blocks.{(levels - 1 - i) * per_level}.1.qkv.weight" in tensors]
    middle = f"{prefix}middle_block.1.encoder_kv.weight"
    return options | {
        "attention_levels": attended,
        "middle_attention": middle in tensors,
        "head_dim": HEAD_DIM,
        "context_dim": tensors.shape(middle, 3)[1],
    }


def _is_block(tensors, name):
    return f"{name}.in_layers.2.weight" in tensors


def _width(tensors, name):
    """Output channels of a residual block."""
    return tensors.shape(f"{name}.in_layers.2.weight", 4)[0]
