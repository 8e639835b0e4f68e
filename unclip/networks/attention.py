"""Attention: one function for all of the project's networks, and the U-Net's block."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .norms import NORMS

# Up to this many keys plain operations beat the fused kernel on a CPU: in bfloat16, backward too, two to four times.
PLAIN_ON_CPU = 512


def attend(q, k, v, mask=None):                                                         # (B, heads, N or M, D)
    """softmax(q k^T / sqrt(D)) v; `mask` is boolean, True = attend, broadcastable to (B, heads, N, M).

    The caller sees to it that no row of the mask is all False.
    """
    if q.device.type != "cpu" or k.shape[-2] > PLAIN_ON_CPU:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)                  # (B, heads, N, D)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)                              # (B, heads, N, M)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v                                                   # (B, heads, N, D)


def split_heads(x, parts, heads):                                                       # (B, N, parts * heads * D)
    """The (B, heads, N, D) tensors that a fused projection holds, part by part (queries, keys, values)."""
    return rearrange(x, "b n (part head d) -> part b head n d", part=parts, head=heads).unbind()


class AttentionBlock(nn.Module):
    """Self-attention over the pixels; keys and values of context tokens, if any, go before the pixels' own.

    unCLIP, section 2.1, after GLIDE; the layout is that of Karlo's decoder (`encoder_kv`): the pixels are normalised,
    the context is not. Starts as the identity.
    """

    def __init__(self, *, channels, head_dim, context_dim, norm):
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"head_dim={head_dim} does not divide the {channels} channels of an attention level")
        self.heads = channels // head_dim
        self.norm = NORMS[norm](channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context_dim, 2 * channels) if context_dim is not None else None
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def read(self, context):                                                            # (B, M, context_dim)
        """Keys and values of the context tokens, (B, M, 2C): they hold for every x."""
        return self.context_kv(context)

    def forward(self, x, context_kv=None, context_mask=None):                           # (B, C, H, W), (B, M, 2C)
        """context_kv: what `read` makes of the context tokens."""
        height, width = x.shape[-2:]
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c")                        # (B, HW, C)
        q, k, v = split_heads(self.qkv(pixels), 3, self.heads)                          # (B, heads, HW, D)
        mask = None
        if self.context_kv is not None:
            context_k, context_v = split_heads(context_kv, 2, self.heads)               # (B, heads, M, D)
            k = torch.cat([context_k, k], dim=2)                                        # (B, heads, M + HW, D)
            v = torch.cat([context_v, v], dim=2)
            if context_mask is not None:
                mask = F.pad(context_mask, (0, height * width), value=True)[:, None, None]  # (B, 1, 1, M + HW)
        out = rearrange(attend(q, k, v, mask), "b head n d -> b n (head d)")            # (B, HW, C)
        return x + rearrange(self.proj_out(out), "b (h w) c -> b c h w", h=height)      # (B, C, H, W)
