"""Conditions and their absence: what classifier-free guidance drops in training (Ho & Salimans 2022)."""

import torch
import torch.nn.functional as F

from .diffusion import draws_on

TEXT_KEYS = ("text_embed", "text_states", "text_mask")


def drawn(share, batch, generator, device):
    """bool (B,) on `device`, each true with probability `share`; see `draws_on`."""
    return (torch.rand(batch, generator=generator, device=draws_on(device, generator)) < share).to(device)


def drop_text(text, null_text, dropped):
    """Text keys (B, ...) with the rows where `dropped` (B,) is true put to the empty caption's (1, ...)."""
    return {k: torch.where(rows(dropped, text[k]), null_text[k].to(text[k]), text[k]) for k in text}


def on(text, device):
    """Text keys on a device."""
    return {k: text[k].to(device) for k in TEXT_KEYS}


def text_of(batch, device):
    """The text keys of a training batch (B, ...) and those of the empty caption (1, ...), on a device."""
    return on(batch, device), {k: batch[f"null_{k}"].to(device) for k in TEXT_KEYS}


def trimmed(*texts):
    """Texts of one length, without the last columns of their states that are padding in all of them: nothing attends to
    padding, and most of a caption's 77 tokens are. Where the texts lie on a GPU, this waits for it."""
    masks = [text["text_mask"].any(0) for text in texts]                                                      # (L,), each
    ends = [(mask * torch.arange(1, len(mask) + 1, device=mask.device)).max() for mask in masks]
    length = int(torch.stack(ends).max())

    def fitted(text):
        more = length - text["text_mask"].shape[1]
        states, mask = F.pad(text["text_states"], (0, 0, 0, more)), F.pad(text["text_mask"], (0, more))
        return {**text, "text_states": states, "text_mask": mask}

    return [fitted(text) for text in texts]


def text_and_null(text, null_text, device):
    """The two conditions that guidance contrasts: captions (B, ...), and the empty one (1, ...) B times."""
    text = on(text, device)
    return text, {k: null_text[k].to(text[k]).expand_as(text[k]) for k in TEXT_KEYS}


def rows(mask, like):
    """(B,) shaped to broadcast over the rows of `like`."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def check_share(name, value):
    """Raises ValueError for a share outside 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: a share lies between 0 and 1")
