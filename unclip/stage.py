"""What decoder and upsamplers share: parts that draw pictures, from noise or from a picture."""

from dataclasses import dataclass, replace
from typing import Optional

import torch
from torch import Tensor

from .diffusion import SAMPLERS, ddim_inverse, keeping, process
from .part import Part

AGAIN = 0.6  # of the way back to noise, where a mask is drawn anew: see Start.rounds


@dataclass(frozen=True)
class Start:
    """From what a stage draws, in the place of noise. The tensors have the stage's size and B or 1 pictures.

    Args:
        picture: float (B, 3, S, S) in [-1, 1]: drawing begins with it, noised (image-to-image; SDEdit, Meng et al. 2022).
        x_t: (B, 3, S, S): drawing begins with this instead, such as what `Stage.inverted` gives.
        strength: in (0, 1], how far on the way from picture to noise drawing begins; 1: at the first timestep of a whole
            drawing, where next to nothing of the picture is left.
        mask: (B, 1, S, S) in 0..1: 1 where to draw, 0 where the picture is kept (inpainting). None: all is drawn.
        rounds: how often it is drawn: each time after the first, from the last result noised to `AGAIN`, so that what is
            drawn comes to agree with what is kept, as RePaint's resampling does (Lugmayr et al. 2022, section 4.2).

    Raises:
        ValueError: a mask, or a strength below 1, without a picture; a number out of range.
    """

    picture: Optional[Tensor] = None
    x_t: Optional[Tensor] = None
    strength: float = 1.0
    mask: Optional[Tensor] = None
    rounds: int = 1

    def __post_init__(self):
        if not 0 < self.strength <= 1 or self.rounds < 1:
            raise ValueError(f"a start of strength {self.strength} in {self.rounds} rounds: above 0 to 1, and 1 or more")
        if self.picture is None and (self.mask is not None or (self.x_t is None and self.strength < 1)):
            raise ValueError("a start with a mask or a strength below 1 needs a picture")

    def rows(self, first, last):
        """The start of the pictures first to last - 1 of a larger batch."""
        tensors = {name: getattr(self, name) for name in ("picture", "x_t", "mask")}
        return replace(self, **{k: v if v is None or len(v) == 1 else v[first:last] for k, v in tensors.items()})


class Stage(Part):
    """Base of decoder and upsampler. They have a `schedule`, the `spacing` of its timesteps, and a `denoiser`."""

    def timesteps(self, num_inference_steps, strength=1.0):
        """Those that drawing visits: LongTensor, see `Schedule.timesteps`."""
        return self.schedule.timesteps(num_inference_steps, self.spacing, strength)

    def num_steps(self, num_inference_steps, start=None):
        """How many steps drawing takes in all."""
        start = start or Start()
        return sum(len(self.timesteps(num_inference_steps, self.strength(start, k))) for k in range(start.rounds))

    @staticmethod
    def strength(start, k):
        """How far back round k begins."""
        return start.strength if k == 0 else min(start.strength, AGAIN)

    def draw(
        self, denoiser, shape, *, noise, num_inference_steps, sampler="ddim", eta=0.0, start=None, callback=None
    ):  # fmt: skip
        """What a sampler draws of a shape (B, 3, H, W), in the terms of the denoiser's x_0.

        Args:
            denoiser: (x_t, t) -> Prediction.
            noise: a SeededNoise for B pictures.
            sampler: a key of `SAMPLERS`; eta: of ddim, the others do not read it.
            start: a Start, in the place of noise; callback: see diffusion/samplers.py.
        """
        start = start or Start()
        picture, x_t = (None if a is None else a.to(self.device).expand(shape) for a in (start.picture, start.x_t))
        if start.mask is not None:
            denoiser = keeping(denoiser, self.schedule, picture, start.mask.to(self.device))
        options = {"eta": eta} if sampler == "ddim" else {}
        if sampler == "ddpm" and self.denoiser.learned_variance:
            options["variance"] = "learned_range"
        for k in range(start.rounds):
            timesteps = self.timesteps(num_inference_steps, self.strength(start, k))
            if k or x_t is None:
                eps = noise(shape).to(self.device)
                x_t = eps if picture is None else process.q_sample(self.schedule, picture, int(timesteps[0]), eps)
            picture = SAMPLERS[sampler](denoiser, x_t, timesteps, self.schedule, noise=noise, callback=callback, **options)
        return picture

    @torch.no_grad()
    def inverted(self, denoiser, images, *, num_inference_steps, strength=1.0, callback=None):
        """The x_t from which `draw` with as many steps, this strength and ddim comes back to pictures (B, 3, H, W), nearly."""
        timesteps = self.timesteps(num_inference_steps, strength)
        return ddim_inverse(denoiser, images.to(self.device), timesteps, self.schedule, callback=callback)
