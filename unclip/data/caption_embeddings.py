"""What CLIP's text tower says of the captions of shards, computed once and kept beside them.

For a shard `0.tar` the file `0.FINGERPRINT.text.safetensors` holds, of the N captions in the shard's order (a sample with
several lines has as many), `embed`, float16 (N, D); `lengths`, int32 (N,), the tokens of each from its start through its end;
and `states`, float16 (T, W), those of all these tokens one after another, T the sum of the lengths: padding is not kept. The
fingerprint is that of the whole FrozenCLIP, conventions included; the keys of the captions' samples stand in the metadata.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from .beside import read_beside


class ShardTexts:
    """The texts of a shard's captions, over tensors that are mapped from a file: what is looked at is read.

    keys: the sample of each of N captions; embed, states, lengths: as the file has them.
    """

    def __init__(self, keys, embed, states, lengths):
        self.keys, self.embed, self.states = keys, embed, states
        self.ends = lengths.long().cumsum(0)                                                                      # (N,)
        self.starts = self.ends - lengths
        self._rows = {}
        for row, key in enumerate(keys):
            self._rows.setdefault(key, []).append(row)

    def __len__(self):
        return len(self.keys)

    def rows(self, key):
        """The rows of a sample's captions, in the order of its lines. Raises KeyError where it has none."""
        return self._rows[key]

    def batch(self, rows):
        """Of B rows the text_embed (B, D), text_states (B, L, W) and text_mask (B, L), float32 and bool, L the longest's.

        As `CaptionEncoder` gives them of the same captions, up to float16, but zeros where the mask is false.
        """
        tokens = [self.states[self.starts[row] : self.ends[row]].float() for row in rows]
        states = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(t) for t in tokens])
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        return {"text_embed": self.embed[rows].float(), "text_states": states, "text_mask": mask}


def read_texts(shard, fingerprint):
    """The ShardTexts of the file beside a shard, mapped and not yet read; None where there is none, or one of another
    shard."""
    keys, tensors = read_beside(shard, texts_file(shard, fingerprint)) or ([], {})
    if set(tensors) != {"embed", "states", "lengths"} or not len(keys) == len(tensors["embed"]) == len(tensors["lengths"]):
        return None
    return ShardTexts(keys, **tensors) if len(tensors["states"]) == tensors["lengths"].sum() else None


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
        """B strings -> {"embed": float16 (B, D), "states": float16 (T, W), "lengths": int32 (B,)}; see the module."""
        text = clip.encode_text(captions).batch()
        mask = text["text_mask"]
        return {
            "embed": text["text_embed"].half().cpu(), "states": text["text_states"][mask].half().cpu(),
            "lengths": mask.sum(dim=1, dtype=torch.int32).cpu(),
        }  # fmt: skip
