"""What `scripts/import_weights.py` does: released weights -> a model folder of ours."""

from pathlib import Path

import torch

from ..errors import UserError
from ..files import empty_folder, new_folder
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
        dtype: of the weights that are written, by its name in torch; None: as they are.
        clip, pretrained: a FrozenCLIP's, in place of OpenAI's ViT-L/14.

    Raises:
        UserError: no source, no such CLIP, a part that is missing, damaged or of another model; `out` is then as it was.
    """
    out, clip = empty_folder(out), named_clip(clip, pretrained)
    folder = fetch(source, KARLO_PARTS)
    layout = next((each for each in (karlo_layout, diffusers_layout) if each.has_layout(folder)), None)
    if layout is None:
        raise UserError(
            f"{source} holds no Karlo: neither {karlo_layout.FILES['prior']} nor {diffusers_layout.PRIOR}/config.json is there"
        )
    with new_folder(out) as temporary:
        # one after the other, so that no two are in memory
        width = write_part(layout.read_prior(folder), temporary / "prior", dtype).embed_dim
        write_model_index(temporary, width, clip, karlo_layout.DEFAULTS)
        side = write_part(layout.read_decoder(folder), temporary / "decoder", dtype).image_size
        write_part(layout.read_upsampler(folder, side), temporary / "upsampler-1", dtype)
    print(out)


def import_prior(source, out, dtype=None, clip=None, pretrained=None):
    """Write a prior in diffusers' layout (Kandinsky 2.2's, ECLIPSE's, Karlo's alone) as a model that has no decoder yet.

    Arguments and errors as of `import_karlo`.
    """
    out, clip = empty_folder(out), named_clip(clip, pretrained)
    folder = fetch(source, ["", diffusers_layout.PRIOR, *diffusers_layout.SCHEDULERS[diffusers_layout.PRIOR]])
    subfolder = next((each for each in (diffusers_layout.PRIOR, "") if diffusers_layout.has_layout(folder, each)), None)
    if subfolder is None:
        karlo = "; it holds Karlo's checkpoints: say karlo" if karlo_layout.has_layout(folder) else ""
        raise UserError(
            f"{source} holds no prior in diffusers' layout, {diffusers_layout.PRIOR}/config.json{karlo} (LAION's priors cannot be "
            "read: they are lucidrains' network, with rotary positions and one head of keys and values)"
        )
    with new_folder(out) as temporary:
        prior = diffusers_layout.read_prior(folder, subfolder)
        defaults = KANDINSKY if prior.transformer.time_embed is not None else ONE_STEP
        write_model_index(temporary, prior.embed_dim, clip, defaults)
        write_part(prior, temporary / "prior", dtype)
    print(out)


def write_part(part, folder, dtype):
    """Write a part and say how large it is. Returns a part of the same shape, without weights."""
    if dtype is not None:
        part.to(getattr(torch, dtype))  # tensor by tensor, where `save` would hold both forms of all
    part.save(folder, dtype=None)
    print(f"{folder.name}: {sum(p.numel() for p in part.parameters()) / 1e6:,.1f} M parameters")
    return part.to("meta")


def named_clip(clip, pretrained):
    """(name, tag) of a CLIP that the user names; None for none. Raises UserError where there is no such CLIP."""
    from ..openclip.names import model_name

    if clip is None:
        if pretrained is not None:
            raise UserError(f"--pretrained {pretrained}: say with --clip of which architecture")
        return None
    model_name(clip, pretrained)
    return str(clip), pretrained


def write_model_index(folder, width, clip, defaults):
    """The index of a model whose image embeddings are `width` wide, and its CLIP where that is a folder.

    Raises:
        UserError: nobody says whose embeddings they are.
    """
    if clip is None and width not in CLIPS:
        raise UserError(f"embeddings of {width} numbers: say with --clip whose they are")
    name, pretrained = clip or CLIPS[width]
    fingerprint = None
    if Path(name).is_dir():
        from ..clip import FrozenCLIP

        fingerprint = FrozenCLIP(name).fingerprint()
    begin_model(folder, name, pretrained, unit_variance=False, fingerprint=fingerprint)
    write_index(folder, read_clip_entry(folder), defaults)
