"""Normalisations of feature maps."""

from torch import nn


class ChannelGroupNorm(nn.GroupNorm):
    """GroupNorm over 32 groups, eps 1e-5, as in ADM and Karlo."""

    groups = 32

    def __init__(self, channels):
        if channels % self.groups:
            raise ValueError(f"norm='group' needs channels divisible by {self.groups}, got {channels}")
        super().__init__(self.groups, channels, eps=1e-5)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: where maps are channels_last it reads memory in order."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-5)

    def forward(self, x):                                                               # (B, C, H, W)
        x = super().forward(x.permute(0, 2, 3, 1))                                      # (B, H, W, C)
        return x.permute(0, 3, 1, 2)                                                    # (B, C, H, W)


NORMS = {"group": ChannelGroupNorm, "layer": ChannelLayerNorm}
