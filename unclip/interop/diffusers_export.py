"""Writing parts as diffusers' folders, without diffusers: a `config.json`, weights, and the scheduler's config."""

import json
from pathlib import Path

from safetensors.torch import save_file

from ..errors import UserError
from .diffusers_layout import (
    CONDITION, CONFIG, CROSS, DECODER, FIRST, LAST, PLAIN, PREDICTIONS, PRIOR, SCHEDULER_CONFIG, SCHEDULERS, WEIGHTS,
)  # fmt: skip
from .fill import spread
from .names import DIFFUSERS, condition_rules, prior_rules, statistics_rules, unet_rules


class NoForm(UserError):
    """diffusers has no such part; says why."""


def write_prior(prior, folder):
    """Write a DiffusionPrior as diffusers' PriorTransformer, and its scheduler. Raises NoForm."""
    net = prior.transformer
    heads, width = net.blocks[0].heads, net.x_proj.out_features
    refuse("the prior", {
        "its text states are not as wide as the image embedding": net.text_dim != prior.embed_dim,
        "its heads do not fill its width": width != net.blocks[0].proj_out.in_features,
        "it has no time token": net.time_embed is None,
        **process_reasons(prior),
    })  # fmt: skip
    write(folder, PRIOR, "PriorTransformer", {
        "num_attention_heads": heads, "attention_head_dim": width // heads, "num_layers": len(net.blocks),
        "embedding_dim": prior.embed_dim, "num_embeddings": net.text_length, "additional_embeddings": 4,
        "embedding_proj_dim": None if net.text_embed_dim == prior.embed_dim else net.text_embed_dim,
    }, spread(prior, prior_rules(prior, DIFFUSERS) + statistics_rules()))  # fmt: skip
    write_scheduler(folder, PRIOR, prior, variance="fixed_small_log", clamp=prior.clamp)


def write_decoder(decoder, folder):
    """Write a Decoder as diffusers' UNet2DConditionModel and UnCLIPTextProjModel, and its scheduler. Raises NoForm."""
    unet, options, dim = decoder.unet, decoder.options["unet"], len(decoder.null_image)
    refuse("the decoder", {
        "it reads no captions": decoder.text_to_tokens is None,
        "it has no image tokens": not decoder.image_tokens,
        "it was distilled, and is told its number of steps": bool(decoder.step_counts),
        "its text states are not as wide as the image embedding":
            decoder.text_to_tokens is not None and decoder.text_to_tokens.in_features != dim,
        "it has no attention in the middle": unet.middle[0].attention is None,
        **unet_reasons(unet, options),
        **process_reasons(decoder),
    })  # fmt: skip
    blocks = [CROSS if level in options["attention_levels"] else PLAIN for level in range(len(unet.up))]
    learned = decoder.denoiser.learned_variance
    write(folder, DECODER, "UNet2DConditionModel", {
        **unet_config(unet, options, blocks), "sample_size": decoder.image_size, "in_channels": 3,
        "out_channels": 6 if learned else 3, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "cross_attention_dim": unet.context_dim, "class_embed_type": "identity", "attention_head_dim": options["head_dim"],
    }, spread(decoder, unet_rules(unet, DIFFUSERS)))  # fmt: skip
    write(folder, CONDITION, "UnCLIPTextProjModel", {
        "clip_extra_context_tokens": decoder.image_tokens, "clip_embeddings_dim": dim,
        "time_embed_dim": unet.time_embed_dim, "cross_attention_dim": unet.context_dim,
    }, spread(decoder, condition_rules(decoder, DIFFUSERS)))  # fmt: skip
    write_scheduler(folder, DECODER, decoder, variance="learned_range" if learned else "fixed_small_log", clamp=1.0)


def write_upsampler(upsampler, folder):
    """Write an Upsampler as diffusers' two UNet2DModel (the same one twice where ours has one), and its scheduler.

    Raises NoForm.
    """
    options = upsampler.options["unet"]
    refuse("the upsampler", {
        "it is told a noise level": upsampler.noise_embed is not None,
        "it draws what is added to the enlarged picture": upsampler.residual is not None,
        "it is told the image embedding": upsampler.image_to_time is not None,
        **unet_reasons(upsampler.unet, options),
        **process_reasons(upsampler),
    })  # fmt: skip
    config = {**unet_config(upsampler.unet, options, [PLAIN] * len(upsampler.unet.up)), "sample_size": upsampler.image_size,
              "in_channels": 6, "out_channels": 3, "add_attention": False}  # fmt: skip
    last = "unet_last" if upsampler.unet_last is not None else "unet"
    for name, network in ((FIRST, "unet"), (LAST, last)):
        rules = unet_rules(getattr(upsampler, network), DIFFUSERS, f"{network}.")
        write(folder, name, "UNet2DModel", config, spread(upsampler, rules))
    write_scheduler(folder, FIRST, upsampler, variance="fixed_small_log", clamp=1.0)


def unet_reasons(unet, options):
    """{why diffusers has no such U-Net: whether it is so}."""
    return {
        "its norms are over channels (norm: layer)": options.get("norm", "group") != "group",
        "it folds 2x2 pixels (patch: 2)": unet.patch != 1,
        "its levels differ in their number of blocks": len({len(layers) for layers in unet.up}) > 1,
        "its first level has a multiplier, which diffusers' time embedding would follow": options["multipliers"][0] != 1,
    }


def process_reasons(part):
    """{why diffusers' UnCLIPScheduler has no such process: whether it is so}."""
    return {
        "its schedule is not the cosine": part.options.get("schedule", "cosine") != "cosine",
        "it predicts v, which UnCLIPScheduler does not know": part.denoiser.prediction == "v",
    }


def refuse(part, reasons):
    """Raises NoForm with the first reason that holds."""
    for reason, holds in reasons.items():
        if holds:
            raise NoForm(f"{part} has no form in diffusers: {reason}")


def unet_config(unet, options, blocks):
    """What the configs of both U-Nets share. blocks: level by level."""
    return {
        "block_out_channels": [options["channels"] * m for m in options["multipliers"]],
        "layers_per_block": len(unet.up[0]) - 1,
        "down_block_types": [name.format("Down") for name in blocks],
        "up_block_types": [name.format("Up") for name in reversed(blocks)],
        "resnet_time_scale_shift": "scale_shift" if options.get("scale_shift", True) else "default",
        "dropout": options.get("dropout", 0.0),
    }


def write(folder, part, kind, config, tensors):
    """A part's folder."""
    at = Path(folder) / part
    write_json(at / CONFIG, {"_class_name": kind, **config})
    save_file(tensors, at / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})


def write_scheduler(folder, part, ours, *, variance, clamp):
    """UnCLIPScheduler's config with the process of one of our parts."""
    names = {value: key for key, value in PREDICTIONS.items()}
    write_json(Path(folder) / SCHEDULERS[part][0] / SCHEDULER_CONFIG, {
        "_class_name": "UnCLIPScheduler", "num_train_timesteps": ours.schedule.num_timesteps, "variance_type": variance,
        "clip_sample": clamp is not None, "clip_sample_range": clamp, "prediction_type": names[ours.denoiser.prediction],
    })  # fmt: skip


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
