"""What `scripts/import_weights.py` does: released weights -> a model folder of ours."""

from pathlib import Path

import torch

from ..errors import UserError
from ..files import new_folder
from ..model_index import begin_model, read_clip_entry, write_index
from . import diffusers_layout, karlo_layout
from .fetch import fetch

# which CLIP's embeddings a released prior predicts, by their width
CLIPS = {768: ("ViT-L-14", "openai"), 1280: ("ViT-bigG-14", "laion2b_s39b_b160k")}
KARLO_PARTS = [
    diffusers_layout.PRIOR, diffusers_layout.DECODER, diffusers_layout.CONDITION, diffusers_layout.FIRST,
    diffusers_layout.LAST, *(name for names in diffusers_layout.SCHEDULERS.values() for name in names),
]  # fmt: skip
KANDINSKY = {k: v for k, v in karlo_layout.DEFAULTS.items() if k.startswith("prior_")}  # its pipeline has the same
ONE_STEP = {"prior_num_inference_steps": 1, "prior_num_samples": 1, "prior_guidance_scale": 1.0, "prior_sampler": "ddpm"}


def import_karlo(source, out, dtype=None, clip=None, pretrained=None):
    """Write Karlo, from its own checkpoints or from diffusers' folders, as a model of ours.

    Args:
        source: a folder, or a hub id; out: the model's folder, new or empty.
        dtype: of the weights that are written; None: as they are.
        clip, pretrained: a FrozenCLIP's, in place of OpenAI's ViT-L/14.

    Raises:
        UserError: no source, a part that is missing, damaged or of another model; `out` is then as it was.
    """
    out = new_model(out)
    folder = fetch(source, KARLO_PARTS)
    if karlo_layout.has_layout(folder):
        readers = {"prior": karlo_layout.read_prior, "decoder": karlo_layout.read_decoder}
        upsampler = lambda _: karlo_layout.read_upsampler(folder)  # noqa: E731
    elif diffusers_layout.has_layout(folder):
        readers = {"prior": diffusers_layout.read_prior, "decoder": diffusers_layout.read_decoder}
        upsampler = lambda side: diffusers_layout.read_upsampler(folder, side)  # noqa: E731
    else:
        raise UserError(
            f"{source} holds no Karlo: neither {karlo_layout.FILES['prior']} nor {diffusers_layout.PRIOR}/config.json is there"
        )
    with new_folder(out) as temporary:
        prior = readers["prior"](folder)
        width = prior.embed_dim
        write_part(prior, temporary / "prior", dtype)
        del prior  # its memory is wanted for the next
        decoder = readers["decoder"](folder)
        side = decoder.image_size
        write_part(decoder, temporary / "decoder", dtype)
        del decoder
        write_part(upsampler(side), temporary / "upsampler-1", dtype)
        write_model_index(temporary, width, clip, pretrained, karlo_layout.DEFAULTS)
    print(out)


def import_prior(source, out, dtype=None, clip=None, pretrained=None):
    """Write a prior in diffusers' layout (Kandinsky 2.2's, ECLIPSE's, Karlo's alone) as a model that has no decoder yet.

    Arguments and errors as of `import_karlo`.
    """
    out = new_model(out)
    folder = fetch(source, ["", diffusers_layout.PRIOR, *diffusers_layout.SCHEDULERS[diffusers_layout.PRIOR]])
    subfolder = diffusers_layout.PRIOR if diffusers_layout.has_layout(folder) else ""
    if not diffusers_layout.has_layout(folder, subfolder):
        raise UserError(
            f"{source} holds no prior in diffusers' layout (config.json). LAION's priors are another network, lucidrains' "
            "(rotary positions, one head of keys and values), which is not among ours"
        )
    with new_folder(out) as temporary:
        prior = diffusers_layout.read_prior(folder, subfolder)
        defaults = KANDINSKY if prior.transformer.time_embed is not None else ONE_STEP
        write_part(prior, temporary / "prior", dtype)
        write_model_index(temporary, prior.embed_dim, clip, pretrained, defaults)
    print(out)


def new_model(out):
    """A path that holds nothing yet. Raises UserError where it does."""
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty: name a new folder")
    return out


def write_part(part, folder, dtype):
    part.save(folder, dtype=dtype if dtype is None else getattr(torch, dtype))
    print(f"{folder.name}: {sum(p.numel() for p in part.parameters()) / 1e6:,.1f} M parameters")


def write_model_index(folder, width, clip, pretrained, defaults):
    """The index of a model whose image embeddings are `width` wide, and its CLIP where that is a folder."""
    if clip is None:
        if width not in CLIPS:
            raise UserError(f"embeddings of {width} numbers: say with --clip whose they are")
        clip, pretrained = CLIPS[width]
    begin_model(folder, clip, pretrained, unit_variance=False)
    write_index(folder, read_clip_entry(folder), defaults)
