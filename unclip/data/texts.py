"""Captions of batches, encoded by the frozen CLIP as they come.

Token states are large (77 x 768 numbers a caption for ViT-L/14) and the text tower is small: reading them from a disk
would cost more than computing them. What repeats, as captions of classes do, is remembered.
"""

from functools import lru_cache

import torch



class CaptionEncoder:
    """Adds text_embed, text_states, text_mask of a batch's captions, and the empty caption's as null_text_... ."""

    def __init__(self, clip, remember=20_000):
        self.clip = clip
        self.one = lru_cache(maxsize=remember)(self._one)

    def _one(self, caption):
        return self.clip.encode_text([caption]).batch()

    def __call__(self, batch):
        """A batch with its texts."""
        encodings = [self.one(caption) for caption in batch["caption"]]
        text = {key: torch.cat([e[key] for e in encodings]) for key in encodings[0]}
        return {**batch, **text, **{f"null_{k}": v for k, v in self.one("").items()}}


class WithTexts:
    """Batches (see TableBatches) whose captions are encoded on the way."""

    def __init__(self, batches, clip):
        self.batches, self.encode = batches, CaptionEncoder(clip)

    def at(self, step):
        return self.encode(self.batches.at(step))
