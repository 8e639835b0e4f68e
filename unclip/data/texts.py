"""Captions of batches, read as they come: encoded by the frozen CLIP, unless they were ahead of training.

Token states are large (30 kB a caption for ViT-L/14), and beside a prior of the paper's size the text tower is a 37th of the
work (ViT-H/14's an eleventh): which to spend is the user's choice. What repeats, as captions of classes do, is remembered.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F

from ..conditioning import on, trimmed

REMEMBER = 256 * 2**20  # bytes of encodings kept


def mean_texts(groups, clip, batch_size=256):
    """The directions (N, D) of N lists of captions, on CLIP's device: each the mean of its captions' unit vectors, scaled
    to one (Radford et al. 2021, section 3.1.4)."""
    lines = [(k, line) for k, group in enumerate(groups) for line in group]
    sums = torch.zeros(len(groups), clip.embed_dim, device=clip.device)
    for start in range(0, len(lines), batch_size):
        group, text = zip(*lines[start : start + batch_size])
        embed = F.normalize(clip.encode_text(text).embed.float(), dim=-1)
        sums.index_add_(0, torch.tensor(group, device=clip.device), embed)
    return F.normalize(sums, dim=-1)  # of unit length, so a sum serves as well as a mean


class CaptionEncoder:
    """Adds text_embed, text_states, text_mask of a batch's captions, and the empty caption's as null_text_..., trimmed.

    A batch that has the first three, from beside its shards, keeps them; all are on CLIP's device. remember: bytes of encodings
    kept for captions that come again; the ones not used for longest go first.
    """

    def __init__(self, clip, remember=REMEMBER):
        self.clip = clip
        self.known = OrderedDict()
        self.null = clip.encode_text([""]).batch()
        self.most = remember // sum(v.numel() * v.element_size() for v in self.null.values())

    def __call__(self, batch):
        """A batch with its texts."""
        ahead, device = "text_states" in batch, self.null["text_mask"].device
        text = on(batch, device) if ahead else self.encoded(batch["caption"])
        text, null = trimmed(text, self.null)
        return {**batch, **text, **{f"null_{k}": v for k, v in null.items()}}

    def encoded(self, captions):
        """The text keys of B captions: text_embed (B, D), text_states (B, context length, W), text_mask."""
        found = {c: self.known[c] for c in captions if c in self.known}
        new = [c for c in dict.fromkeys(captions) if c not in found]
        if new:
            encoded = self.clip.encode_text(new).batch()
            found.update((c, {k: v[n : n + 1].clone() for k, v in encoded.items()}) for n, c in enumerate(new))
        for caption in found:
            self.known[caption] = found[caption]
            self.known.move_to_end(caption)
        while len(self.known) > self.most:
            self.known.popitem(last=False)
        return {key: torch.cat([found[c][key] for c in captions]) for key in self.null}


class Read:
    """Batches (see TableBatches) whose captions are read on the way, by `reader`: a batch -> the batch with more in it."""

    def __init__(self, batches, reader):
        self.batches, self.reader = batches, reader

    def at(self, step):
        return self.reader(self.batches.at(step))

    def state(self):
        return self.batches.state()

    def load(self, state):
        self.batches.load(state)
