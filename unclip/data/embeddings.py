"""CLIP image embeddings of shards, computed once and kept beside them.

For a shard `0.tar` the file `0.FINGERPRINT.safetensors` holds `image_embed`, float16 (N, 2, D): of each picture and of
its mirror image, in the convention of the FrozenCLIP whose image tower's fingerprint it names; and `sums`, int32 (N,), the
checksum of each picture's bytes, which files of earlier versions lack: a shard with other pictures may well be of the same
size. The sample keys, and the size of the shard that they were computed from, stand in the metadata. Files that a training
lacks are made at its start; `scripts/embed.py` makes those of a large set ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from ..errors import UserError
from .beside import read_beside, write_beside
from .encoding import encoded_shards
from .images import decode, to_float
from .shards import image_bytes
from .sums import sum_of


class ShardEmbeddings(Mapping):
    """{key: float16 (2, D)} of a shard's pictures, over one tensor that lies in memory or is mapped from a file.

    A row is a view of that tensor: of a mapped one, the system reads what is looked at, and may drop it again.
    image_embed: float16 (N, 2, D); keys: N strings, in its order; sums: int32 (N,), or None where they are not known.
    """

    def __init__(self, keys, image_embed, sums=None):
        self.image_embed, self.sums = image_embed, None if sums is None else sums.tolist()
        self._row = {key: row for row, key in enumerate(keys)}

    def __getitem__(self, key):
        return self.image_embed[self._row[key]]

    def __contains__(self, key):
        return key in self._row

    def __iter__(self):
        return iter(self._row)

    def __len__(self):
        return len(self._row)

    def fits(self, key, checksum):
        """Whether the embedding of a key is, as far as is known, that of the picture with this checksum (see sums.py)."""
        return self.sums is None or self.sums[self._row[key]] == checksum

    def of(self, keys):
        """A copy of the rows of some keys, (len(keys), 2, D). Raises KeyError for one that is not there."""
        return self.image_embed[[self._row[key] for key in keys]]


def attach_embeddings(table, clip, say=print):
    """Give a table its `image_embed` (N, 2, D), from the files beside its shards; those that are missing, or of other
    pictures, are made first.

    Raises:
        UserError: a file that fits its shard, but lacks one of its pictures.
    """
    fingerprint, rows_of = clip.image_fingerprint(), {}
    for row, shard in enumerate(table.shards):
        rows_of.setdefault(shard, []).append(row)
    image_embed = torch.empty(len(table), 2, clip.embed_dim, dtype=torch.float16)
    for shard, rows in rows_of.items():
        try:
            embeds = shard_embeddings(shard, clip, fingerprint, say)
            if not all(embeds.fits(table.keys[row], table.sums[row]) for row in rows):
                embeds = make_embeddings(shard, clip, fingerprint, say)
            image_embed[rows] = embeds.of([table.keys[row] for row in rows])
        except KeyError as error:
            file = embeddings_file(shard, fingerprint)
            raise UserError(f"{file} has no embedding of {error} in {shard}: remove it, and it is made anew") from None
    table.image_embed = image_embed


def shard_embeddings(shard, clip, fingerprint, say=print):
    """The ShardEmbeddings of a shard, read from its file or computed and written."""
    found = read_embeddings(shard, fingerprint)
    if found is not None and found.image_embed.shape[2] == clip.embed_dim:
        return found
    return make_embeddings(shard, clip, fingerprint, say)


def make_embeddings(shard, clip, fingerprint, say=print):
    """The ShardEmbeddings of a shard, computed and written."""
    keys, tensors = embed_shard(shard, clip)
    try:
        write_beside(shard, embeddings_file(shard, fingerprint), keys, tensors, dtype_name(clip))
    except (OSError, SafetensorError) as error:
        say(f"cannot keep the embeddings of {shard} ({error}): they are computed anew in every run")
    return ShardEmbeddings(keys, **tensors)


def read_embeddings(shard, fingerprint):
    """The ShardEmbeddings of the file beside a shard, mapped and not yet read; None where there is none, or one of another
    shard."""
    keys, tensors = read_beside(shard, embeddings_file(shard, fingerprint)) or ([], {})
    embeds, sums = tensors.get("image_embed", torch.empty(0)), tensors.get("sums")
    right = embeds.dtype == torch.float16 and embeds.ndim == 3 and embeds.shape[1] == 2 and len(keys) == len(embeds)
    right = right and (sums is None or (sums.dtype == torch.int32 and sums.shape == (len(keys),)))
    return ShardEmbeddings(keys, embeds, sums) if right else None


def embeddings_file(shard, fingerprint):
    return Path(shard).with_suffix(f".{fingerprint}.safetensors")


def embed_shard(shard, clip):
    """Encode the pictures of a shard and their mirror images: (keys, the tensors of its file)."""
    pictures = Pictures.of(clip)
    with tqdm(desc=f"CLIP embeddings of {Path(shard).name}", unit="images") as bar:
        ((_, encoded, _),) = encoded_shards([(shard, [pictures])], clip, progress=bar.update)
    return encoded[pictures]  # whoever reads the shard for training reports what was skipped


def dtype_name(clip):
    """In what a CLIP computes: "float32", "bfloat16"."""
    return str(clip.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Pictures:
    """The kind of content (see encoding.py) that a shard's pictures are, for a CLIP that sees them so large."""

    size: int
    squash: bool
    unit, counted = "pictures", "image_embed"  # what there is one of to each row, and the tensor of these rows

    @classmethod
    def of(cls, clip):
        return cls(clip.image_size, clip.squash)

    @staticmethod
    def fingerprint(clip):
        return clip.image_fingerprint()

    file, read = staticmethod(embeddings_file), staticmethod(read_embeddings)

    def contents(self, sample):
        content = image_bytes(sample)
        return [(decode(content, self.size, self.squash), sum_of(content))]

    def batch(self, contents):
        pictures, sums = zip(*contents)
        return torch.stack(pictures), torch.tensor(sums, dtype=torch.int32)              # uint8 (B, 3, S, S), (B,)

    @property
    def blank(self):
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8), 0

    def encode(self, clip, batch):
        """uint8 (B, 3, S, S), int32 (B,) -> {"image_embed": float16 (B, 2, D), "sums"}, of each and of its mirror image."""
        pictures, sums = batch
        pixels = to_float(pictures.to(clip.device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        both = [clip.encode_image(view) for view in (pixels, pixels.flip(-1))]
        return {"image_embed": torch.stack(both, dim=1).half().cpu(), "sums": sums}
