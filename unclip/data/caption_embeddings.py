"""What CLIP's text tower says of the captions of shards, computed once and kept beside them, for streamed trainings.

For a shard `0.tar` the file `0.FINGERPRINT.text.safetensors` holds, of the N captions in the shard's order (a sample with
several lines has as many), `embed`, float16 (N, D); `lengths`, int32 (N,), the tokens of each from its start through its end;
`states`, float16 (T, W), those of all these tokens one after another, T the sum of the lengths: padding is not kept; and
`sums`, int32 (N,), the checksum of each caption, since a shard with other captions may well be of the same size. The
fingerprint is that of the whole FrozenCLIP, conventions included; the keys of the captions' samples stand in the metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from .beside import read_beside
from .sums import sum_of

TENSORS = {"embed": (torch.float16, 2), "states": (torch.float16, 2), "lengths": (torch.int32, 1), "sums": (torch.int32, 1)}


class ShardTexts(Sequence):
    """The texts of a shard's captions, over tensors that are mapped from a file: what is looked at is read.

    Item n is (embed (D,), states (L, W)) of the caption in row n, L its tokens, float16. keys: the sample of each of N
    captions; embed, states, lengths, sums: as the file has them.
    """

    def __init__(self, keys, embed, states, lengths, sums):
        self.keys, self.embed, self.states, self.sums = keys, embed, states, sums.tolist()
        ends = lengths.long().cumsum(0)
        self.starts, self.ends = (ends - lengths).tolist(), ends.tolist()
        self._rows = {}
        for row, key in enumerate(keys):
            self._rows.setdefault(key, []).append(row)

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, row):
        return self.embed[row], self.states[self.starts[row] : self.ends[row]]

    def of(self, key):
        """A sample's captions, {checksum: item} in the order of its lines; empty where it has none."""
        return {self.sums[row]: self[row] for row in self._rows.get(key, [])}


def together(texts):
    """Of B items of ShardTexts the text_embed (B, D), text_states (B, L, W) and text_mask (B, L), float32 and bool, L the
    longest's.

    As `CaptionEncoder` gives them of the same captions, up to float16, but zeros where the mask is false.
    """
    embeds, states = zip(*texts)
    lengths = torch.tensor([len(tokens) for tokens in states])
    return {
        "text_embed": torch.stack(embeds).float(),
        "text_states": pad_sequence(list(states), batch_first=True).float(),
        "text_mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }


def read_texts(shard, fingerprint):
    """The ShardTexts of the file beside a shard, mapped and not yet read; None where there is none, or one of another
    shard."""
    keys, tensors = read_beside(shard, texts_file(shard, fingerprint)) or ([], {})
    if {name: (value.dtype, value.ndim) for name, value in tensors.items()} != TENSORS:
        return None
    lengths, rows = tensors["lengths"], {len(tensors[name]) for name in ("embed", "lengths", "sums")}
    right = rows == {len(keys)} and not (lengths < 0).any() and lengths.sum() == len(tensors["states"])
    return ShardTexts(keys, **tensors) if right else None


def texts_file(shard, fingerprint):
    return Path(shard).with_suffix(f".{fingerprint}.text.safetensors")


@dataclass(frozen=True)
class Captions:
    """The kind of content (see encoding.py) that a shard's captions are: the lines of its samples that are not empty."""

    unit, counted = "captions", "lengths"  # what there is one of to each row, and the tensor of these rows
    blank = ""

    @staticmethod
    def fingerprint(clip):
        return clip.fingerprint()

    file, read = staticmethod(texts_file), staticmethod(read_texts)

    def contents(self, sample):
        lines = [line.strip() for line in sample["txt"].decode("utf-8").splitlines() if line.strip()]
        if not lines:
            raise ValueError("its caption is empty")
        return lines

    def batch(self, contents):
        return contents

    def encode(self, clip, captions):
        """B strings -> {"embed": float16 (B, D), "states": float16 (T, W), "lengths", "sums": int32 (B,)}; see the module."""
        text = clip.encode_text(captions).batch()
        mask = text["text_mask"]
        return {
            "embed": text["text_embed"].half().cpu(), "states": text["text_states"][mask].half().cpu(),
            "lengths": mask.sum(dim=1, dtype=torch.int32).cpu(),
            "sums": torch.tensor([sum_of(caption) for caption in captions], dtype=torch.int32),
        }  # fmt: skip
