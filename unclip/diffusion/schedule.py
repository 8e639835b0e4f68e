"""Noise schedules: how much of the signal is left at every timestep.

Time index, used throughout this package: the code's t runs over 0..T-1 and equals the paper's t - 1, so that t is
also the row of a table. Clean data sits at t = -1, where alpha_bar = 1.

Everything is kept in float64. In float32, 1 - alpha_bar near clean data loses four of its seven digits, and the last
step of a sampler would scale x_0-hat by 0.9995 instead of 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SCHEDULES = ("linear", "cosine")
SPACINGS = ("linspace", "leading", "trailing")
MOST_TIMESTEPS = 100_000  # its tables are made before anything is known of a model's weights


class Schedule:
    """The tables of a forward process (DDPM, eq. 2 and 4).

    Args:
        beta: (T,) variance added by each step, each in (0, 1), T >= 2.

    Attributes (float64, on the CPU, each (T,)):
        beta: the variances themselves.
        alpha: 1 - beta.
        alpha_bar: prod of alpha up to and including t: the share of the signal's variance left in x_t.
        alpha_bar_prev: alpha_bar one step cleaner; its first entry is 1.

    Raises:
        ValueError: beta is not one-dimensional, is shorter than 2, or leaves (0, 1).
    """

    def __init__(self, beta: Tensor | Sequence[float]):
        beta = torch.as_tensor(beta, dtype=torch.float64, device="cpu")
        if beta.ndim != 1 or len(beta) < 2:
            raise ValueError(f"beta must be (T,) with T >= 2, got shape {tuple(beta.shape)}")
        if not ((beta > 0) & (beta < 1)).all():
            raise ValueError("every beta must lie strictly between 0 and 1")
        self.beta = beta
        self.alpha = 1 - beta
        self.alpha_bar = self.alpha.cumprod(0)
        # The paper's own indexing, alpha_bar_0 = 1 first: entry t + 1 belongs to the code's t, entry 0 to clean data.
        self._alpha_bar_from_clean = torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar])                # (T + 1,)
        self.alpha_bar_prev = self._alpha_bar_from_clean[:-1]
        self._on_device = {torch.device("cpu"): self._alpha_bar_from_clean}

    @classmethod
    def linear(cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> "Schedule":
        """Betas on a straight line (DDPM, section 4)."""
        return cls(torch.linspace(beta_start, beta_end, T, dtype=torch.float64, device="cpu"))

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> "Schedule":
        """alpha_bar on a squared cosine (improved DDPM, eq. 17), with betas clipped at `max_beta`."""
        time = torch.arange(T + 1, dtype=torch.float64, device="cpu") / T                                 # (T + 1,)
        f = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2
        return cls((1 - f[1:] / f[:-1]).clamp(max=max_beta))

    @classmethod
    def named(cls, name: str, T: int) -> "Schedule":
        """`linear` or `cosine` with the papers' constants. Raises ValueError for any other name, or T above MOST_TIMESTEPS."""
        if name not in SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
        if not 2 <= T <= MOST_TIMESTEPS:
            raise ValueError(f"{T} timesteps: choose 2 to {MOST_TIMESTEPS:,}")
        return getattr(cls, name)(T)

    @property
    def num_timesteps(self) -> int:
        return len(self.beta)

    def alpha_bar_at(self, t: int | Tensor) -> Tensor:
        """alpha_bar at t in -1..T-1, in float64: () for an int, and as `t` in shape and device for a LongTensor.

        Raises:
            ValueError: t is an int outside -1..T-1. (A tensor is not checked: that would wait for the GPU.)
        """
        if isinstance(t, int):
            if not -1 <= t < self.num_timesteps:
                raise ValueError(f"t must lie in -1..{self.num_timesteps - 1}, got {t}")
            return self._alpha_bar_from_clean[t + 1]
        if t.device.type == "mps":  # it has no float64
            t = t.cpu()
        if t.device not in self._on_device:
            self._on_device[t.device] = self._alpha_bar_from_clean.to(t.device)
        return self._on_device[t.device][t + 1]

    def timesteps(self, n: int, spacing: str = "linspace", strength: float = 1.0) -> Tensor:
        """n of the T timesteps, for a sampler that skips: LongTensor (n,), strictly decreasing.

        strength: in (0, 1], the share of the way from clean data to noise: of the n, only the last strength n, at least
            one, for a sampler that begins with a picture noised so far (SDEdit, Meng et al. 2022).

        The spacings bear the names of Lin et al. 2023 (arXiv:2305.08891, table 2):
            linspace: both ends included, from T-1 to 0 (for n = 1: T-1).
            leading: multiples of T // n; ends at 0 and starts below T-1.
            trailing: steps of T / n down from T-1; ends above 0.

        Raises:
            ValueError: n is outside 1..T, strength outside (0, 1], or the spacing is unknown.
        """
        T = self.num_timesteps
        if not 1 <= n <= T:
            raise ValueError(f"the number of steps must lie in 1..{T}, got {n}")
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie above 0 and not above 1, got {strength}")
        i = torch.arange(n, dtype=torch.float64, device="cpu")
        if spacing == "linspace":
            rising = (i * (T - 1) / (n - 1)).round() if n > 1 else i + T - 1
        elif spacing == "leading":
            rising = i * (T // n)
        elif spacing == "trailing":
            rising = (T - i * T / n).round().flip(0) - 1
        else:
            raise ValueError(f"unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")
        return rising.long()[: max(1, round(strength * n))].flip(0)


def broadcast(coefficient: Tensor, x: Tensor) -> Tensor:
    """A float64 coefficient, one number or (B,), in x's dtype and ready to multiply x: () or (B, 1, ..., 1)."""
    coefficient = coefficient.to(x.dtype)
    if coefficient.ndim == 0:  # acts as a plain number on every device
        return coefficient
    return coefficient.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
