"""Conditioning augmentation: spoil the small picture an upsampler is given, so that it forgives what drew it.

Ho et al. 2021, "Cascaded Diffusion Models", section 4.2. Pictures are float (B, C, H, W).
"""

import math

import torch
import torch.nn.functional as F

from .diffusion import draws_on


def smaller(images, scale):
    """Pictures shrunk by a whole factor: the mean of every scale x scale block, as data/images.py shrinks files."""
    return F.avg_pool2d(images, scale)                                                  # (B, C, H / scale, W / scale)


def larger(images, scale):
    """Pictures enlarged by a whole factor, bicubic with the kernel of PIL (Karlo's), not PyTorch's sharper one."""
    height, width = images.shape[-2:]
    return F.interpolate(images, (scale * height, scale * width), mode="bicubic", antialias=True)


def gaussian_blur(images, sigma, widest=None):
    """Each picture blurred by a Gaussian of its own width: sigma (B,) in pixels; 0 leaves it as it is.

    widest: a number, at least the largest sigma. None: that is read off, which waits for a GPU.
    """
    widest = float(sigma.max()) if widest is None else widest
    radius = math.ceil(3 * widest)
    if radius == 0:
        return images
    if radius >= min(images.shape[-2:]):
        raise ValueError(f"a blur of {widest:.3g} pixels is too wide for pictures of {tuple(images.shape[-2:])}")
    batch, channels = images.shape[:2]
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.to(images)[:, None].clamp(min=1e-3)) ** 2)                # (B, 2r + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]       # (B C, 1, 2r + 1)
    x = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]                        # (1, B C, H', W')
    x = F.conv2d(x, kernel[:, :, :, None], groups=batch * channels)
    x = F.conv2d(x, kernel[:, :, None, :], groups=batch * channels)
    return x.unflatten(1, (batch, channels))[0]                                                         # (B, C, H, W)


def noised(images, level, eps):
    """Pictures at a noise level (B,) in [0, 1): sqrt(1 - level^2) x + level eps, so alpha_bar is 1 - level^2."""
    level = level.to(images)[:, None, None, None]
    return (1 - level**2).sqrt() * images + level * eps


def corners(images, side, step, generator=None):
    """Where a random square of each picture begins: its top (B,) and left (B,), in steps; see `draws_on`."""
    place = draws_on(images.device, generator)

    def drawn(length):
        count = (length - side) // step + 1
        return torch.randint(count, images.shape[:1], generator=generator, device=place).to(images.device)

    return drawn(images.shape[2]), drawn(images.shape[3])


def crops(images, side, step, begin):
    """The squares of pictures that begin where `corners` says: (B, C, side, side).

    What a square of side n step shows, a square of side n and step 1 shows of the picture that is smaller by `step`.
    """
    windows = images.unfold(2, side, step).unfold(3, side, step)                           # (B, C, rows, columns, s, s)
    top, left = begin
    return windows[torch.arange(len(images), device=images.device), :, top, left]
