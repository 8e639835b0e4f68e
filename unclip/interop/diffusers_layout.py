"""Reading diffusers' folders of unCLIP's parts, a `config.json` and weights each, without diffusers."""

from pathlib import Path

import torch

from ..decoder import Decoder
from ..errors import UserError
from ..prior import DiffusionPrior
from ..upsampler import Upsampler
from .diffusers_configs import (
    PriorTransformer, UnCLIPScheduler, UnCLIPTextProjModel, UNet2DConditionModel, UNet2DModel,
)  # fmt: skip
from .fill import fill, on_meta
from .names import DIFFUSERS, condition_rules, prior_rules, statistics_rules, unet_rules
from .tensors import Tensors

CONFIG, SCHEDULER_CONFIG, WEIGHTS = "config.json", "scheduler_config.json", "diffusion_pytorch_model"
PRIOR, DECODER, CONDITION, FIRST, LAST = "prior", "decoder", "text_proj", "super_res_first", "super_res_last"
# of each part, the folders that may hold it; in Kandinsky's pipeline there is but one
SCHEDULERS = {PRIOR: ("prior_scheduler", "scheduler"), DECODER: ("decoder_scheduler",), FIRST: ("super_res_scheduler",)}
# in the order in which they are looked for
WEIGHT_FILES = [f"{WEIGHTS}{end}" for end in (".safetensors", ".safetensors.index.json", ".bin", ".fp16.safetensors", ".fp16.bin")]
PLAIN, CROSS = "Resnet{}sampleBlock2D", "SimpleCrossAttn{}Block2D"  # blocks of a U-Net; {} is Down or Up
PREDICTIONS = {"epsilon": "eps", "sample": "x_0"}


def has_layout(folder, part=PRIOR):
    """Does a folder hold a part as diffusers saves it?"""
    return (Path(folder) / part / CONFIG).is_file()


def read_prior(folder, subfolder=PRIOR):
    """A DiffusionPrior from PriorTransformer's folder: Karlo's, Kandinsky's and ECLIPSE's.

    Raises:
        UserError: a file is missing or damaged, or describes what is not among ours; see also `fill`.
    """
    at = Path(folder) / subfolder
    config = PriorTransformer.read(at / CONFIG)
    diffusion, dim = config.additional_embeddings == 4, config.embedding_dim
    for key, value, only in (("time_embed_dim", config.time_embed_dim, config.width), ("clip_embed_dim", config.clip_embed_dim, dim)):
        if value not in (None, only):
            raise UserError(f"{at / CONFIG}: {key} = {value}: only {only} can be read")
    transformer = {
        "text_dim": dim,
        "text_length": config.num_embeddings,
        "text_embed_dim": config.embedding_proj_dim or dim,
        "width": config.width,
        "layers": config.num_layers,
        "heads": config.num_attention_heads,
        "time_token": diffusion,
    }
    process = {}
    if diffusion:
        process, scheduler = read_process(folder, PRIOR)
        process["clamp"] = scheduler.clip_sample_range if scheduler.clip_sample else None
    prior = on_meta(DiffusionPrior, at, embed_dim=dim, transformer=transformer, spacing="linspace", **process)
    tensors, rules = weights_of(at), prior_rules(prior, DIFFUSERS)
    if diffusion:
        return fill(prior, (rules + statistics_rules(), tensors))
    # ECLIPSE takes the embedding as it is, whatever the statistics that it inherits hold
    as_it_is = Tensors(at, {"clip_mean": torch.zeros(dim), "clip_std": torch.ones(dim)})
    return fill(prior, (rules, tensors), (statistics_rules(), as_it_is), ignore=("clip_mean", "clip_std"))


def read_decoder(folder):
    """A Decoder from the folders of the U-Net and of text_proj. Raises UserError, as `read_prior`."""
    folder = Path(folder)
    config = UNet2DConditionModel.read(folder / DECODER / CONFIG)
    condition = UnCLIPTextProjModel.read(folder / CONDITION / CONFIG)
    process, scheduler = read_process(folder, DECODER)
    learned = config.out_channels == 6
    if learned != (scheduler.variance_type == "learned_range"):
        raise UserError(f"{folder / DECODER / CONFIG}: {config.out_channels} channels and a variance {scheduler.variance_type}")
    unet = unet_options(folder / DECODER, config, (PLAIN, CROSS)) | {
        "attention_levels": [i for i, block in enumerate(config.down_block_types) if block == CROSS.format("Down")],
        "middle_attention": True,
        "head_dim": config.attention_head_dim,
        "context_dim": config.cross_attention_dim,
    }
    decoder = on_meta(
        Decoder, folder / DECODER, unet=unet, image_size=config.sample_size, embed_dim=condition.clip_embeddings_dim,
        text_dim=condition.clip_embeddings_dim, image_tokens=condition.clip_extra_context_tokens, learned_variance=learned,
        vlb_weight=0.001 if learned else 0.0, spacing="linspace", **process,
    )  # fmt: skip
    return fill(
        decoder,
        (unet_rules(decoder.unet, DIFFUSERS), weights_of(folder / DECODER)),
        (condition_rules(decoder, DIFFUSERS), weights_of(folder / CONDITION)),
    )


def read_upsampler(folder, takes):
    """An Upsampler from the folders of its two U-Nets. takes: the side of what it enlarges. Raises as `read_prior`."""
    folder = Path(folder)
    config, other = (UNet2DModel.read(folder / each / CONFIG) for each in (FIRST, LAST))
    if config != other:
        raise UserError(f"{folder}: {FIRST} and {LAST} are networks of two shapes")
    upsampler = on_meta(
        Upsampler, folder / FIRST, unet=unet_options(folder / FIRST, config, (PLAIN,)), image_size=config.sample_size,
        scale=config.sample_size // takes, max_blur=0.0, max_noise=0.0, last_step=True, spacing="linspace",
        **read_process(folder, FIRST)[0],
    )  # fmt: skip
    return fill(
        upsampler,
        (unet_rules(upsampler.unet, DIFFUSERS, "unet."), weights_of(folder / FIRST)),
        (unet_rules(upsampler.unet_last, DIFFUSERS, "unet_last."), weights_of(folder / LAST)),
    )


def unet_options(at, config, blocks):
    """A UNet's keywords but those of attention. blocks: which there may be."""
    down, first = config.down_block_types, config.block_out_channels[0]
    if not set(down) <= {block.format("Down") for block in blocks}:
        raise UserError(f"{at / CONFIG}: down_block_types = {', '.join(down)}: no such U-Net is among ours")
    if config.up_block_types != [block.replace("Down", "Up") for block in reversed(down)]:
        raise UserError(f"{at / CONFIG}: up_block_types do not mirror down_block_types: no such U-Net is among ours")
    if len(down) != len(config.block_out_channels) or any(width % first for width in config.block_out_channels):
        raise UserError(f"{at / CONFIG}: block_out_channels = {config.block_out_channels}: one a level, multiples of the first")
    return {
        "channels": first,
        "multipliers": [width // first for width in config.block_out_channels],
        "num_res_blocks": config.layers_per_block,
        "scale_shift": config.resnet_time_scale_shift == "scale_shift",
        "dropout": config.dropout,
    }


def read_process(folder, part):
    """(a part's keywords about its process, its scheduler's config).

    Raises:
        UserError: there is no scheduler, or one that is not among ours: pixels are clamped to [-1, 1].
    """
    places = [Path(folder) / name / SCHEDULER_CONFIG for name in SCHEDULERS[part]]
    path = next((place for place in places if place.is_file()), places[0])
    config = UnCLIPScheduler.read(path)
    if part != PRIOR and not (config.clip_sample and config.clip_sample_range == 1):
        raise UserError(f"{path}: clip_sample_range = {config.clip_sample_range}: only pixels within -1 to 1 can be read")
    return {"prediction": PREDICTIONS[config.prediction_type], "num_timesteps": config.num_train_timesteps}, config


def weights_of(at):
    """The `Tensors` of a part's folder. Raises UserError where it has no weights."""
    for name in WEIGHT_FILES:
        if (at / name).is_file():
            return Tensors(at / name)
    raise UserError(f"{at} has no weights ({WEIGHTS}.safetensors): copy it again")
