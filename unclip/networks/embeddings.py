"""The time step as a vector."""

import math

import torch
from torch import nn


def sinusoidal(t, dim):
    """Cosines, then sines, of t at dim / 2 frequencies falling geometrically from 1 to 1/10000 (ADM; Karlo)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies                                           # (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)                              # (B, dim)


class TimeEmbedding(nn.Module):
    """Sinusoids through a two-layer MLP."""

    def __init__(self, *, channels, width):
        super().__init__()
        if channels % 2:
            raise ValueError(f"sinusoids come in pairs: channels={channels} is odd")
        self.channels = channels
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t):                                                               # (B,)
        x = sinusoidal(t, self.channels).to(self.linear_1.weight.dtype)                 # (B, channels)
        return self.linear_2(nn.functional.silu(self.linear_1(x)))                      # (B, width)
