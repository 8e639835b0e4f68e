"""The U-Net's residual block."""

import torch
import torch.nn.functional as F
from torch import nn

from .norms import NORMS


def upsample(x):                                                                        # (B, C, H, W)
    return F.interpolate(x, scale_factor=2, mode="nearest")                             # (B, C, 2H, 2W)


def downsample(x):                                                                      # (B, C, H, W)
    return F.avg_pool2d(x, 2)                                                           # (B, C, H / 2, W / 2)


def silu(x):
    """SiLU of what nobody else reads: in place where no gradient will ask for it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """ADM's residual block (Dhariwal & Nichol 2021, section 3): norm, SiLU, convolution, twice.

    The embedding enters as a scale and shift after the second norm (`scale_shift`), or is added before it. `resample`
    (`upsample` or `downsample`) changes the resolution of both branches. Starts as the identity, resampled.
    """

    def __init__(self, *, in_channels, out_channels, embed_dim, norm, scale_shift, dropout, resample=None):
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm_1 = NORMS[norm](in_channels)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embed_dim, out_channels * (2 if scale_shift else 1))
        self.norm_2 = NORMS[norm](out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x, emb):                                                          # (B, C_in, H, W), (B, E)
        """`emb` has been through its SiLU: once for the whole network, not once a block."""
        h = silu(self.norm_1(x))                                                        # (B, C_in, H, W)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_1(h)                                                              # (B, C, H', W')
        emb = self.embed(emb)[:, :, None, None]                                         # (B, C or 2C, 1, 1)
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)                                          # (B, C, 1, 1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        else:
            h += emb
            h = self.norm_2(h)
        h = self.conv_2(self.dropout(silu(h)))                                          # (B, C, H', W')
        h += self.skip(x)  # a convolution's output, which its gradient does not need
        return h
