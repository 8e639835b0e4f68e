"""Noise: where training draws it, and seeded, so that picture k is the same in a batch of any size, on any device."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def draws_on(device: str | torch.device, generator: torch.Generator | None = None) -> torch.device:
    """Where the random numbers of a loss are drawn for a model on `device`.

    Without a generator, as in training, there: numbers drawn on the CPU would keep a GPU waiting. With one, as in
    validation, where the generator is: a CPU's gives the same numbers, and so comparable figures, for every device.
    Apple's devices have no float64, which timesteps are drawn in: the CPU draws for them.
    """
    device = torch.device(device)
    if generator is not None:
        return generator.device
    return torch.device("cpu") if device.type == "mps" else device


def noise_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise in x's shape, dtype and device, drawn in float32; see `draws_on`."""
    return torch.randn(x.shape, generator=generator, device=draws_on(x.device, generator)).to(x)


class SeededNoise:
    """Standard normal noise with one generator a picture, drawn on the CPU in float32 whatever the target.

    Called with a shape (B, ...) it gives float32 on `device`; called with a tensor x, noise like x. So an instance
    is both the source of x_T and the `noise` that samplers take.

    Args:
        seeds: one a picture.
        device: where noise drawn by shape goes.
    """

    def __init__(self, seeds: Sequence[int], device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor | Sequence[int]) -> Tensor:
        """(B, ...) noise, of this shape or like this tensor. Raises ValueError if B is not the number of seeds."""
        return self.like(like) if isinstance(like, Tensor) else self._draw(like).to(self.device)

    def like(self, x: Tensor) -> Tensor:
        """Noise in x's shape, dtype and device. Raises ValueError if B is not the number of seeds."""
        return self._draw(x.shape).to(x.device, x.dtype)

    def ahead(self, runs: int, draws: int, shape: Sequence[int]) -> Tensor:
        """What `runs` runs, one after another, would be given in `draws` calls each with a shape (B, ...), so that they can
        go side by side: (draws, B runs, ...), the runs of a picture next to each other."""
        drawn = torch.stack([self(shape) for _ in range(runs * draws)])
        return rearrange(drawn, "(run draw) picture ... -> draw (picture run) ...", run=runs)

    def _draw(self, shape: Sequence[int]) -> Tensor:
        batch, *picture = shape
        if batch != len(self.generators):
            raise ValueError(f"{len(self.generators)} seeds cannot fill a batch of {batch}")
        return torch.stack([torch.randn(picture, generator=generator) for generator in self.generators])  # (B, ...)
