"""CLIP image embeddings of shards, computed once and kept beside them.

For a shard `0.tar` the file `0.FINGERPRINT.safetensors` holds `image_embed`, float16 (N, 2, D): of each picture and of
its mirror image, in the convention of the FrozenCLIP whose fingerprint it names. The sample keys stand in the metadata.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..files import new_file
from .images import decode, to_float
from .shards import Skipped, image_bytes, read_samples


def attach_embeddings(table, clip, say=print):
    """Give a table its `image_embed` (N, 2, D), from the files beside its shards; missing files are made first."""
    fingerprint, found = clip.fingerprint(), {}
    for shard in dict.fromkeys(table.shards):
        for key, embed in shard_embeddings(shard, clip, fingerprint, say).items():
            found[shard, key] = embed
    table.image_embed = torch.stack([found[at] for at in zip(table.shards, table.keys)])


def shard_embeddings(shard, clip, fingerprint, say=print):
    """{key: float16 (2, D)} of a shard, read from its file or computed and written."""
    path = Path(shard).with_suffix(f".{fingerprint}.safetensors")
    try:
        with safe_open(path, "pt") as file:
            keys = json.loads(file.metadata()["keys"])
            return dict(zip(keys, file.get_tensor("image_embed")))
    except (OSError, SafetensorError, KeyError, TypeError):
        pass  # not there yet, or cut off: make it
    keys, embeds = embed_shard(shard, clip)
    try:
        with new_file(path) as temporary:
            save_file({"image_embed": embeds}, temporary, metadata={"keys": json.dumps(keys)})
    except OSError as error:
        say(f"cannot keep the embeddings of {shard} ({error.strerror}): they are computed anew in every run")
    return dict(zip(keys, embeds))


def embed_shard(shard, clip, batch_size=256):
    """Encode the pictures of a shard and their mirror images: (keys, float16 (N, 2, D))."""
    keys, images, embeds, skipped = [], [], [], Skipped()

    def encode():
        pixels = to_float(torch.stack(images)).to(clip.device, memory_format=torch.channels_last)
        both = [clip.encode_image(view) for view in (pixels, pixels.flip(-1))]
        embeds.append(torch.stack(both, dim=1).half().cpu())
        images.clear()

    for sample in tqdm(read_samples([shard], skipped), desc=f"CLIP embeddings of {Path(shard).name}", unit="images"):
        try:
            images.append(decode(image_bytes(sample), clip.image_size))
        except Exception as error:  # load_table skips and reports it too
            skipped(error)
            continue
        keys.append(sample["__key__"])
        if len(images) == batch_size:
            encode()
    if images:
        encode()
    return keys, torch.cat(embeds)
