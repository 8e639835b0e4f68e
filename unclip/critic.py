"""What tells drawings from photographs, and so teaches a decoder to draw what photographs show: a projected discriminator.

Sauer et al. 2021, "Projected GANs Converge Faster" (arXiv:2111.01007): small heads look at feature maps of frozen classifiers,
here at those of the last two resolutions alone. What lies below them can be fooled by a pattern of single pixels. A head asks
whether the picture is a photograph of its class (Miyato & Koyama 2018, "cGANs with Projection Discriminator", equation 5), and
learns by the hinge loss of both.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 64
FASTER = 7  # than the decoder beside which it learns: its weights are kept divided by this, so that Adam moves them so


class Head(nn.Module):
    """Feature maps (B, C, H, W), labels (B,) -> how much each is a photograph's (B,)."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.look = nn.Parameter(torch.randn(WIDTH, channels) / math.sqrt(channels) / FASTER)
        self.bias = nn.Parameter(torch.zeros(WIDTH))
        self.any_class = nn.Parameter(torch.zeros(WIDTH))
        self.of_class = nn.Embedding(num_classes, WIDTH)
        nn.init.zeros_(self.of_class.weight)

    def forward(self, maps, labels):
        maps = F.group_norm(maps, 1)
        seen = F.leaky_relu(FASTER * (torch.einsum("oc,bchw->bohw", self.look, maps) + self.bias[:, None, None]), 0.2)
        return FASTER * ((self.any_class + self.of_class(labels) / math.sqrt(WIDTH)) * seen.mean((2, 3))).sum(1)


class Critic(nn.Module):
    """Heads on what frozen classifiers see. Only the heads are part of this module, and learn.

    Args:
        classifiers: the `Classifiers` whose views and feature maps it looks at.
        num_classes: of the labels.
    """

    def __init__(self, classifiers, num_classes):
        super().__init__()
        self._beside = [classifiers]  # in a list, so that they are no part of this module
        self.heads = nn.ModuleList(Head(channels, num_classes) for channels in classifiers.map_channels())

    def scores(self, pictures, labels, generator=None):
        """pictures (B, 3, S, S) in [-1, 1], labels (B,) -> (number of heads, B): 1 and more for a photograph, -1 and less for
        a drawing, as far as a head can tell."""
        maps = self._beside[0].maps(pictures, generator)
        return torch.stack([head(m, labels) for head, m in zip(self.heads, maps)])

    def forward(self, pictures, labels, generator=None):
        """How much pictures look like photographs of their classes (B,); differentiable in the pictures."""
        return self.scores(pictures, labels, generator).mean(0)

    def loss(self, drawn, photographs, labels, generator=None):
        """The hinge loss, mean of the heads, of as many drawings and photographs, each (B, 3, S, S), of the same labels: (B,)."""
        both = torch.cat([drawn, photographs])
        drawings, real = self.scores(both, labels.repeat(2), generator).chunk(2, dim=1)
        return (F.relu(1 + drawings) + F.relu(1 - real)).mean(0)
