"""Another CLIP for a trained decoder: a linear map from the new embeddings to the old ones, folded into its first layers.

How much of the old embeddings such a map can tell differs from CLIP to CLIP: it is measured and said. The decoder reads
that off the new ones from the start, and training begins there, not with a decoder that understands nothing.
"""

from pathlib import Path

import torch

from .data.embeddings import shard_embeddings
from .data.shards import find_shards
from .decoder import Decoder
from .errors import UserError
from .hub import load_clip, model_folder
from .model_index import begin_model, read_clip_entry, upsampler_folders
from .upsampler import Upsampler

RIDGE = 1e-3  # of the mean variance of an entry
HELD_OUT = 5  # every fifth picture


def retarget(model_name, clip_name, pretrained, data, split, out):
    """Write to `out` the decoder and upsamplers of a model as they read another CLIP. Its prior has to be trained.

    data, split: pictures that both CLIPs look at.

    Raises:
        UserError: no such model, CLIP or pictures, fewer pictures than numbers in an embedding, a decoder that reads
            captions, or a folder with another model.
    """
    from .clip import FrozenCLIP

    folder = model_folder(model_name)
    unit_variance = read_clip_entry(folder)["unit_variance"]
    decoder = Decoder.from_pretrained(folder / "decoder")
    upsamplers = [Upsampler.from_pretrained(each) for each in upsampler_folders(folder)]
    clips = FrozenCLIP(clip_name, pretrained, unit_variance=unit_variance), load_clip(folder)
    shards = find_shards(data, split)
    new, old = paired(shards, *clips)
    matrix, shift = linear_map(new, old)
    decoder = retargeted(decoder, matrix, shift)
    begin_model(out, clip_name, pretrained, unit_variance, clips[0].fingerprint())
    decoder.save(Path(out) / "decoder")
    for k, upsampler in enumerate(upsamplers, 1):
        told = upsampler.image_to_time is not None
        (retargeted(upsampler, matrix, shift) if told else upsampler).save(Path(out) / f"upsampler-{k}")
    print(f"{explained(new, old):.1%} of the old embeddings' variance can be read off the new ones (held-out pictures)")
    print(f"wrote {out}; it has no prior yet: run scripts/train_prior.py with its CLIP and --set out={out}")


def paired(shards, new_clip, old_clip):
    """The embeddings (N, D') and (N, D), by two CLIPs, of the pictures of some shards that both have.

    Raises:
        UserError: fewer pictures than twice the numbers of a new embedding.
    """
    clips = [(clip, clip.image_fingerprint()) for clip in (new_clip, old_clip)]
    new, old = [], []
    for shard in shards:
        embeds, others = (shard_embeddings(shard, *clip) for clip in clips)
        both = [key for key in embeds if key in others]
        new.append(embeds.of(both)[:, 0])
        old.append(others.of(both)[:, 0])
    new, old = torch.cat(new), torch.cat(old)
    if len(new) < 2 * new.shape[1]:
        raise UserError(f"too few pictures ({len(new)}) for embeddings of {new.shape[1]} numbers: take twice as many")
    return new, old


def linear_map(new, old):
    """The least squares map old = new @ matrix.T + shift from embeddings of the same pictures (N, D') and (N, D).

    Returns (matrix (D, D'), shift (D,)), float64.
    """
    new, old = new.double(), old.double()
    x, y = new - new.mean(0), old - old.mean(0)
    cov = x.T @ x / len(x)
    cov = cov + RIDGE * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype)
    matrix = torch.linalg.solve(cov, x.T @ y / len(x)).T
    return matrix, old.mean(0) - matrix @ new.mean(0)


def explained(new, old):
    """The share of the old embeddings' variance that the map tells of pictures it was not fitted to: 1 at best."""
    out = torch.arange(len(new)) % HELD_OUT == HELD_OUT - 1
    matrix, shift = linear_map(new[~out], old[~out])
    rest = old[out].double() - new[out].double() @ matrix.T - shift
    return 1 - float(rest.square().sum() / (old[out].double() - old[~out].double().mean(0)).square().sum())


def retargeted(part, matrix, shift):
    """A decoder, or an upsampler that is told embeddings, as one that reads new embeddings e as matrix @ e + shift.

    part: a Decoder or Upsampler for D numbers; matrix: (D, D'); shift: (D,). Returns a part for D' numbers with the same
    outputs; exactly so for the absent image of guidance where D' >= D.

    Raises:
        UserError: the decoder reads captions too, which no map of image embeddings can translate.
    """
    if getattr(part, "text_to_tokens", None) is not None:
        raise UserError("this decoder reads captions too, in the states of its own CLIP: train one anew")
    options, state = {**part.options, "embed_dim": matrix.shape[1]}, part.state_dict()
    for name in ("image_to_time", "image_to_tokens"):
        if f"{name}.weight" in state:
            weight = state[f"{name}.weight"].double()
            state[f"{name}.bias"] = state[f"{name}.bias"] + weight @ shift
            state[f"{name}.weight"] = weight @ matrix
    if "image_to_tokens.weight" in state:  # whose width would follow from embed_dim
        options["unet"] = {**options["unet"], "context_dim": part.unet.context_dim}
    if "null_image" in state:
        state["null_image"] = torch.linalg.pinv(matrix) @ (state["null_image"].double() - shift)
    other = type(part)(**options)
    other.load_state_dict(state)
    return other.eval()
