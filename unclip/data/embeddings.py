"""CLIP image embeddings of shards, computed once and kept beside them.

For a shard `0.tar` the file `0.FINGERPRINT.safetensors` holds `image_embed`, float16 (N, 2, D): of each picture and of
its mirror image, in the convention of the FrozenCLIP whose image tower's fingerprint it names. The sample keys, and the
size of the shard that they were computed from, stand in the metadata.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..errors import UserError
from ..files import new_file, parse_json
from .images import decode, to_float
from .shards import Skipped, image_bytes, read_samples


class ShardEmbeddings(Mapping):
    """{key: float16 (2, D)} of a shard's pictures, over one tensor that lies in memory or is mapped from a file.

    A row is a view of that tensor: of a mapped one, the system reads what is looked at, and may drop it again.
    image_embed: float16 (N, 2, D); keys: N strings, in its order.
    """

    def __init__(self, keys, image_embed):
        self.image_embed = image_embed
        self._row = {key: row for row, key in enumerate(keys)}

    def __getitem__(self, key):
        return self.image_embed[self._row[key]]

    def __contains__(self, key):
        return key in self._row

    def __iter__(self):
        return iter(self._row)

    def __len__(self):
        return len(self._row)

    def of(self, keys):
        """A copy of the rows of some keys, (len(keys), 2, D). Raises KeyError for one that is not there."""
        return self.image_embed[[self._row[key] for key in keys]]


def attach_embeddings(table, clip, say=print):
    """Give a table its `image_embed` (N, 2, D), from the files beside its shards; missing files are made first.

    Raises:
        UserError: a file that fits its shard, but lacks one of its pictures.
    """
    fingerprint, rows_of = clip.image_fingerprint(), {}
    for row, shard in enumerate(table.shards):
        rows_of.setdefault(shard, []).append(row)
    image_embed = torch.empty(len(table), 2, clip.embed_dim, dtype=torch.float16)
    for shard, rows in rows_of.items():
        try:
            image_embed[rows] = shard_embeddings(shard, clip, fingerprint, say).of([table.keys[row] for row in rows])
        except KeyError as error:
            file = embeddings_file(shard, fingerprint)
            raise UserError(f"{file} has no embedding of {error} in {shard}: remove it, and it is made anew") from None
    table.image_embed = image_embed


def shard_embeddings(shard, clip, fingerprint, say=print):
    """The ShardEmbeddings of a shard, read from its file or computed and written."""
    found = read_embeddings(shard, fingerprint)
    if found is not None and found.image_embed.shape[2] == clip.embed_dim:
        return found
    keys, embeds = embed_shard(shard, clip)
    metadata = {"keys": json.dumps(keys), "shard_bytes": str(Path(shard).stat().st_size)}
    try:
        with new_file(embeddings_file(shard, fingerprint)) as temporary:
            save_file({"image_embed": embeds}, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        say(f"cannot keep the embeddings of {shard} ({error}): they are computed anew in every run")
    return ShardEmbeddings(keys, embeds)


def read_embeddings(shard, fingerprint):
    """The ShardEmbeddings of the file beside a shard, mapped and not yet read; None where there is none, or one of another
    shard."""
    try:
        with safe_open(embeddings_file(shard, fingerprint), "pt") as file:
            metadata, size = file.metadata(), str(Path(shard).stat().st_size)
            keys, (count, *views) = parse_json(metadata["keys"]), file.get_slice("image_embed").get_shape()
            right = file.get_slice("image_embed").get_dtype() == "F16" and len(views) == 2 and views[0] == 2
            if metadata.get("shard_bytes", size) != size or len(keys) != count or not right:
                return None
            return ShardEmbeddings(keys, file.get_tensor("image_embed"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        return None  # not there yet, or cut off


def embeddings_file(shard, fingerprint):
    return Path(shard).with_suffix(f".{fingerprint}.safetensors")


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
            images.append(decode(image_bytes(sample), clip.image_size, clip.squash))
        except Exception as error:  # whoever reads the shard for training skips and reports it
            skipped(error)
            continue
        keys.append(sample["__key__"])
        if len(images) == batch_size:
            encode()
    if images:
        encode()
    return keys, torch.cat(embeds) if embeds else torch.zeros(0, 2, clip.embed_dim, dtype=torch.float16)
