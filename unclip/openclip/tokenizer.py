"""CLIP's tokenizer, and which tokens of a caption are not padding, whatever the tokenizer."""

import copy
import functools
import importlib.util
from pathlib import Path

MAX_CAPTION = 4000  # characters that are tokenized, far more than any context holds


def clip_tokenizer(context_length):
    """OpenCLIP's own tokenizer (CLIP's byte-pair encoding, 49,408 entries)."""
    tokenizer = copy.copy(tokenizer_module()._tokenizer)  # comes with the module; to make another reads all entries again
    tokenizer.context_length = context_length
    return tokenizer


@functools.cache
def tokenizer_module():
    """open_clip.tokenizer, loaded by itself from OpenCLIP's folder: it needs nothing of the rest."""
    file = Path(importlib.util.find_spec("open_clip").origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def beginnings(captions):
    """Captions as a list, of very long ones as much as can matter: a tokenizer takes its time for all of a text."""
    return [c if len(c) <= MAX_CAPTION else " ".join(c.split())[:MAX_CAPTION] for c in captions]


def token_mask(tokens, tokenizer):
    """Bool (B, L): true from the start token through the end token, false where the context is filled up.

    OpenCLIP's own tokenizer fills up with 0, which is a word to it too: its end token decides. Hugging Face's fill up
    with a pad token; where that is the end token as well (SigLIP), the first one is the end.
    """
    end, fill = getattr(tokenizer, "eot_token_id", None), None
    if end is None:
        end, fill = tokenizer.tokenizer.eos_token_id, tokenizer.tokenizer.pad_token_id
    stop = tokens == (end if fill is None else fill)
    count = stop.cumsum(dim=1)
    return count - stop.long() == 0 if fill in (None, end) else count == 0
