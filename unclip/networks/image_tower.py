"""The image tower of a small CLIP."""

import torch
import torch.nn.functional as F
from torch import nn

from .resblock import silu
from .sizes import check_sizes

STAGES = 4
CSPDARKNETS = {  # by timm's names: `width` and `depths` of an `ImageTower`
    "cs3darknet_s": (16, (1, 3, 4, 1)),
    "cs3darknet_m": (24, (2, 4, 6, 2)),
    "cs3darknet_l": (32, (3, 6, 9, 3)),
    "cs3darknet_x": (40, (3, 7, 11, 3)),
}


class ImageTower(nn.Module):
    """Pictures -> the image embedding: a CSPDarknet (Wang et al. 2020, section 3), the mean over its map, a projection.

    timm's cs3darknet as OpenCLIP wraps it, to look with and not to train. Its weights hold no numbers until they are loaded.

    width: channels of the first convolution; the second has twice as many, and each of the stages twice those before it.
    depths: blocks in each of the four stages.
    """

    def __init__(self, *, embed_dim: int, width: int, depths: tuple):
        super().__init__()
        check_sizes(embed_dim=embed_dim, width=width, depths=depths)
        if len(depths) != STAGES:
            raise ValueError(f"depths={depths}: give {STAGES} numbers, one a stage")
        first, *channels = (width * 2**k for k in range(STAGES + 2))
        self.stem = nn.Sequential(Convolution(3, first, 3, stride=2), Convolution(first, channels[0], 3))
        self.stages = nn.Sequential(*(CrossStage(c_in, c_out, depth)
                                      for c_in, c_out, depth in zip(channels, channels[1:], depths)))
        self.projection = nn.Linear(channels[-1], embed_dim, bias=False)

    def forward(self, pixels):                                                          # (B, 3, H, W)
        """-> (B, D), of pictures of any size, with the channels' mean and deviation taken off."""
        x = self.stages(self.stem(pixels))                                              # (B, C, H / 32, W / 32)
        return self.projection(x.mean(dim=(2, 3)))


class CrossStage(nn.Module):
    """Halves the resolution; then half of the channels go through the blocks, and meet the others, which go past them."""

    def __init__(self, in_channels, out_channels, depth):
        super().__init__()
        self.down = Convolution(in_channels, in_channels, 3, stride=2)
        self.expand = Convolution(in_channels, out_channels, 1)
        self.blocks = nn.Sequential(*(DarkBlock(out_channels // 2) for _ in range(depth)))
        self.merge = Convolution(out_channels, out_channels, 1)

    def forward(self, x):                                                               # (B, C_in, H, W)
        x, past = self.expand(self.down(x)).chunk(2, dim=1)                             # (B, C / 2, H / 2, W / 2)
        return self.merge(torch.cat([self.blocks(x), past], dim=1))                     # (B, C, H / 2, W / 2)


class DarkBlock(nn.Module):
    """Darknet's residual block: a convolution of single pixels and one of their neighbourhoods."""

    def __init__(self, channels):
        super().__init__()
        self.conv_1 = Convolution(channels, channels, 1)
        self.conv_2 = Convolution(channels, channels, 3)

    def forward(self, x):                                                               # (B, C, H, W)
        return x + self.conv_2(self.conv_1(x))


class Convolution(nn.Module):
    """Convolution, batch norm, SiLU. The norm's mean and variance are those that training has left, never the batch's."""

    def __init__(self, in_channels, out_channels, kernel, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.scale = nn.Parameter(torch.empty(out_channels))
        self.shift = nn.Parameter(torch.empty(out_channels))
        self.register_buffer("mean", torch.empty(out_channels))
        self.register_buffer("variance", torch.empty(out_channels))

    def forward(self, x):                                                               # (B, C_in, H, W)
        return silu(F.batch_norm(self.conv(x), self.mean, self.variance, self.scale, self.shift))
