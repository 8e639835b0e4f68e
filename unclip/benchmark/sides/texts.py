"""Made-up captions, for sides that run no text encoder."""

import torch


def made_up(rows, tokens, dim, length, generator=None):
    """Text keys (rows, ...) of captions of so many tokens, filled up to `length`."""
    return {
        "text_embed": torch.randn(rows, dim, generator=generator),
        "text_states": torch.randn(rows, length, dim, generator=generator),
        "text_mask": (torch.arange(length) < tokens).expand(rows, -1),
    }
