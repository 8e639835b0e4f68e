"""The upsampler: a small picture -> a larger one (Ramesh et al. 2022, section 2.1)."""

import math
from dataclasses import replace
from typing import Literal, Optional

import torch
from torch import nn

from .augmentation import corners, crops, gaussian_blur, larger, noised, smaller
from .data.images import to_float
from .diffusion import Denoiser, Schedule, corrected, draw_timesteps, draws_on, noise_like, training_loss
from .networks.embeddings import TimeEmbedding
from .networks.sizes import check_sizes
from .networks.unet import UNet
from .precision import in_float32
from .stage import Stage

NOISE_STEPS = 1000  # a noise level of 0..1 is embedded as a timestep of 0..1000


class Upsampler(Stage):
    """A convolutional U-Net on pixels that sees the small picture, enlarged, beside x_t.

    In training the small picture is the large one shrunk, or a version of it that the batch brings, then blurred and
    noised at random strengths, so that the upsampler forgives what the stage before it draws; it is told the noise level.
    Without attention it trains on crops and draws pictures of any size.

    Args:
        unet: keywords of `UNet`, less in_channels, out_channels and those of attention.
        image_size: side of the pictures that it draws in a model.
        scale: by which factor they are larger than what it is given.
        crop: side of the squares that it trains on; None: whole pictures.
        max_blur: of the Gaussian in training, in pixels of the small picture; drawn from 0 to this.
        max_noise: likewise, the noise level: the small picture becomes sqrt(1 - level^2) x + level eps. With 0 the
            network has no input for it.
        residual: None: the large picture is diffused. A number: what the large picture is more than the enlarged small one,
            divided by this, its typical deviation (SRDiff, Li et al. 2021). The network then need not learn what
            bicubic interpolation gives.
        embed_dim: D of the image embedding that joins the timestep's; None: it is not shown.
        last_step: the last step of a sampling run has a network of its own, as in Karlo, whose two are trained in ways
            that are not here: such an upsampler draws, but has no loss.
        schedule, num_timesteps, prediction, weighting, timestep_density, spacing: as `Decoder`'s.

    Raises:
        ValueError: options that contradict each other.
    """

    edge_layers = ("unet.conv_in", "unet.conv_out", "unet.time_embed", "noise_embed")

    def __init__(
        self,
        *,
        unet: dict,
        image_size: int,
        scale: int,
        crop: Optional[int] = None,
        max_blur: float = 0.6,
        max_noise: float = 0.3,
        residual: Optional[float] = None,
        embed_dim: Optional[int] = None,
        last_step: bool = False,
        schedule: Literal["linear", "cosine"] = "cosine",
        num_timesteps: int = 1000,
        prediction: Literal["eps", "x_0", "v"] = "v",
        weighting: Literal["simple", "min_snr"] = "simple",
        timestep_density: Literal["uniform", "logit_normal"] = "uniform",
        spacing: Literal["linspace", "leading", "trailing"] = "trailing",
    ):
        super().__init__()
        check_sizes(image_size=image_size, scale=scale, crop=crop, embed_dim=embed_dim)
        if scale < 2 or image_size % scale:
            raise ValueError(f"scale={scale}: choose 2 or more, and a divisor of image_size={image_size}")
        if not 0 <= max_noise < 1 or max_blur < 0:
            raise ValueError(f"max_noise={max_noise} must lie in [0, 1), max_blur={max_blur} must not be negative")
        if residual is not None and not residual > 0:
            raise ValueError(f"residual={residual}: choose a deviation above 0, or none")
        self.image_size, self.scale, self.crop, self.spacing = image_size, scale, crop, spacing
        self.max_blur, self.max_noise = max_blur, max_noise
        self.residual = residual
        self.weighting, self.timestep_density = weighting, timestep_density

        def network():
            return UNet(in_channels=6, out_channels=3, attention_levels=[], middle_attention=False, **unet)

        self.unet = network()
        self.unet_last = network() if last_step else None
        for side in (image_size, crop or image_size):
            if side > image_size or side % self.unet.downsampling or side % scale:
                raise ValueError(
                    f"a side of {side}: choose a multiple of {self.unet.downsampling} and {scale}, {image_size} at most"
                )
        width = self.unet.time_embed_dim
        self.noise_embed = TimeEmbedding(channels=unet["channels"], width=width) if max_noise else None
        self.image_to_time = nn.Linear(embed_dim, width) if embed_dim else None
        self.schedule = Schedule.named(schedule, num_timesteps)
        self.denoiser = Denoiser(self.network, self.schedule, prediction)

    def network(self, x_t, t, enlarged, noise_level, image_embed=None, last=False):
        """The raw output for x_t (B, 3, H, W), t (B,), the enlarged small picture (B, 3, H, W) and its noise level (B,).

        image_embed (B, D), if it is used; last: by the network of the last step, where there is one.
        """
        parts = []
        if self.noise_embed is not None:
            parts.append(self.noise_embed(noise_level * NOISE_STEPS))                                            # (B, E)
        if self.image_to_time is not None:
            parts.append(self.image_to_time(image_embed.to(self.dtype)))                                         # (B, E)
        unet = self.unet_last if last else self.unet
        return unet(torch.cat([x_t, enlarged.to(x_t)], dim=1).to(self.dtype), t, sum(parts) if parts else None)

    def loss(self, batch, generator=None):
        """Algorithm 1 of DDPM on crops of pictures and of their spoilt small versions: (loss of each sample (B,), t / T).

        batch: image uint8 (B, 3, S, S); image_embed (B, D), if it is used; small uint8 (B, 3, s, s), if there are small
            versions other than the pictures shrunk, such as those of training/redrawn.py.

        Raises:
            ValueError: the upsampler has a network of its own for the last step.
        """
        if self.unet_last is not None:
            raise ValueError("an upsampler with last_step=true cannot be trained here")
        x_0 = to_float(batch["image"].to(self.device))                                                    # (B, 3, S, S)
        low = to_float(batch["small"].to(self.device)) if "small" in batch else smaller(x_0, self.scale)  # (B, 3, s, s)
        if self.crop:
            begin = corners(x_0, self.crop, self.scale, generator)
            x_0, low = crops(x_0, self.crop, self.scale, begin), crops(low, self.crop // self.scale, 1, begin)
        density = self.timestep_density if self.training else "uniform"
        t = draw_timesteps(len(x_0), self.schedule.num_timesteps, generator, self.device, density)
        eps = noise_like(x_0, generator)
        place = draws_on(self.device, generator)
        blur, level = torch.rand(2, len(x_0), generator=generator, device=place).to(self.device)         # (B,) in [0, 1)
        blur, level = self.max_blur * blur, self.max_noise * level
        with in_float32(x_0.device):  # in float32, as `sample` does it
            low = gaussian_blur(low, blur, self.max_blur)
            low = noised(low, level, noise_like(low, generator))
            cond = self.conditions(low, level, batch.get("image_embed"))
        x_0 = self.diffused(x_0, cond["enlarged"])
        losses = training_loss(self.denoiser, x_0, t, eps, weighting=self.weighting, **cond)
        return losses, t / self.schedule.num_timesteps

    def timesteps(self, num_inference_steps, strength=1.0):
        """As `Stage.timesteps`, but back at least as far as `strength` says, since the next smaller number of two or three
        steps would keep much of a picture that is to be drawn anew."""
        enough = math.ceil(strength * num_inference_steps - 1e-9)  # 0.15 * 20 is a little more than 3
        return super().timesteps(num_inference_steps, enough / num_inference_steps)

    @torch.no_grad()
    def sample(
        self, images, image_embed=None, *, noise, num_inference_steps=10, noise_level=0.0, grain=0.0, blur=0.0,
        sampler="ddim", eta=0.0, start=None, callback=None,
    ):  # fmt: skip
        """Enlarge pictures: float (B, 3, h, w) in [-1, 1] -> (B, 3, scale h, scale w) in [-1, 1].

        Args:
            image_embed: (B, D), for an upsampler that uses it.
            noise: a SeededNoise for B pictures: of the small pictures' noise, then the start's and the sampler's.
            noise_level, blur: how far the small pictures are spoilt first, as in training; the more, the more is made up.
            grain: the noise level at which the small pictures are taken to be already. What a decoder draws has a grain that no
                photograph has; an upsampler that is told of noise smooths it away, and in several steps draws detail instead.
            sampler, eta, start, callback: see `Stage.draw`.

        Raises:
            ValueError: more spoiling than it was trained for, a number of steps that the schedule does not have, no
                embedding for an upsampler that needs it, or a size that the network cannot halve often enough.
        """
        if max(noise_level, grain) > self.max_noise or min(noise_level, grain, blur) < 0 or blur > self.max_blur:
            raise ValueError(
                f"noise_level {noise_level}, grain {grain} and blur {blur}: this upsampler was trained for 0 to "
                f"{self.max_noise}, noise and grain, and 0 to {self.max_blur}"
            )
        images = images.to(self.device)
        low = (1 - grain**2) ** 0.5 * gaussian_blur(images, torch.full((len(images),), blur))  # as if grain were noise in it
        if noise_level:
            low = noised(low, torch.full((len(images),), noise_level), noise(low))
        told = 1 - (1 - grain**2) * (1 - noise_level**2)  # alpha_bars multiply
        level = torch.full((len(images),), min(told**0.5, self.max_noise))
        last_t = int(self.timesteps(num_inference_steps)[-1])
        cond = self.conditions(low, level, image_embed)
        enlarged = cond["enlarged"]
        if start is not None and start.picture is not None:
            picture = start.picture.to(self.device)
            # Without a mask it brings its own fine detail, not what the small picture lacks of it: that may show something else by now.
            whole = enlarged if start.mask is not None else larger(smaller(picture, self.scale), self.scale)
            start = replace(start, picture=self.diffused(picture, whole))

        def shown(i, n, x_t, prediction):  # in pixels, as of other stages
            pictured = replace(prediction, x_0=self.pictured(prediction.x_0, enlarged))
            callback(i, n, self.pictured(x_t, enlarged), pictured)

        drawn = self.draw(
            self.denoising(cond, last_t), enlarged.shape, noise=noise, num_inference_steps=num_inference_steps,
            sampler=sampler, eta=eta, start=start, callback=callback and shown,
        )  # fmt: skip
        return self.pictured(drawn, enlarged).clamp(-1, 1)

    def diffused(self, pictures, enlarged):
        """What is diffused of pictures (B, 3, H, W), given the enlarged small ones: see `residual`."""
        return pictures if self.residual is None else (pictures - enlarged) / self.residual

    def pictured(self, diffused, enlarged):
        """The pictures (B, 3, H, W) of what was diffused: `diffused`, undone."""
        return diffused if self.residual is None else enlarged + self.residual * diffused

    def conditions(self, low, level, image_embed=None):
        """What the network is told besides x_t and t, on its device: from spoilt small pictures and their noise levels.

        Raises:
            ValueError: no embedding for an upsampler that needs it.
        """
        cond = {"enlarged": larger(low, self.scale), "noise_level": level.to(self.device)}
        if self.image_to_time is not None:
            if image_embed is None:
                raise ValueError("this upsampler is told the image embedding: give image_embed")
            cond["image_embed"] = image_embed.to(self.device)
        return cond

    def denoising(self, cond, last_t):
        """The denoiser (x_t, t) -> Prediction for these conditions, its pictures clamped to [-1, 1]; last_t: where sampling
        ends."""
        enlarged = cond["enlarged"]

        def within(x_0):
            return self.diffused(self.pictured(x_0, enlarged).clamp(-1, 1), enlarged)

        first = corrected(lambda x_t, t: self.denoiser(x_t, t, **cond), self.schedule, within)
        if self.unet_last is None:
            return first
        last = corrected(lambda x_t, t: self.denoiser(x_t, t, **cond, last=True), self.schedule, within)
        return lambda x_t, t: (last if int(t[0]) == last_t else first)(x_t, t)
