"""Algorithm 1 of DDPM: draw t, add noise, compare. With the weights and the variational term of its successors."""

import math

import torch
from torch import Tensor

from unclip.diffusion import process
from unclip.diffusion.denoiser import Denoiser
from unclip.diffusion.noise import draws_on
from unclip.diffusion.schedule import Schedule, broadcast

WEIGHTINGS = ("simple", "min_snr")
DENSITIES = ("uniform", "logit_normal")


def draw_timesteps(
    batch: int,
    T: int,
    generator: torch.Generator | None = None,
    device: str | torch.device = "cpu",
    density: str = "uniform",
) -> Tensor:
    """Timesteps for a batch, LongTensor (B,) in 0..T-1, each of the given density, together spread evenly over it.

    One uniform offset, shared by equally spaced points, lowers the variance of the batch's mean loss (Kingma et al.
    2021, "Variational Diffusion Models", appendix I.1).

    Args:
        generator: where and from which they are drawn, see `draws_on`.
        density: "uniform" (DDPM, algorithm 1), or "logit_normal": t / T is the sigmoid of a standard normal, so most
            draws fall on the middle, where shapes are decided (Esser et al. 2024, "Scaling rectified flow", eq. 19).

    Raises:
        ValueError: the density is unknown.
    """
    if density not in DENSITIES:
        raise ValueError(f"unknown density {density!r}; choose one of {', '.join(DENSITIES)}")
    place = draws_on(device, generator)
    offset = torch.rand((), generator=generator, dtype=torch.float64, device=place)
    u = (offset + torch.arange(batch, dtype=torch.float64, device=place) / batch) % 1                  # (B,) in [0, 1)
    if density == "logit_normal":
        u = torch.special.ndtri(u).sigmoid()
    return (u * T).long().to(device)


def training_loss(
    denoiser: Denoiser,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    weighting: str = "simple",
    gamma: float = 5.0,
    vlb_weight: float = 0.0,
    **cond,
) -> Tensor:
    """The loss of each sample, (B,): the mean squared error of the network's own prediction (DDPM, algorithm 1).

    Args:
        denoiser: its prediction type decides what is compared: eps, x_0 or v.
        x_0: (B, C, ...) clean data.
        t: LongTensor (B,) in 0..T-1, as from `draw_timesteps`.
        eps: (B, C, ...) standard normal noise.
        weighting: "simple" (DDPM, eq. 14) or "min_snr" (Hang et al. 2023), see `loss_weight`.
        gamma: the ceiling of min-SNR.
        vlb_weight: lambda of L_hybrid = L_simple + lambda L_vlb (improved DDPM, eq. 16; they use 0.001). L_vlb is a
            sum over T terms in bits a dimension, of which the drawn one counts T times. Needs a learned variance,
            and data in [-1, 1] with 256 levels.
        cond: goes to the network.

    Raises:
        ValueError: the weighting is unknown, or vlb_weight is set for a network with no learned variance.
    """
    schedule = denoiser.schedule
    if vlb_weight and not denoiser.learned_variance:
        raise ValueError("vlb_weight trains a learned variance, which this denoiser does not have")
    x_t = process.q_sample(schedule, x_0, t, eps)                                                       # (B, C, ...)
    output, var_frac = denoiser.output(x_t, t, **cond)                                                  # (B, C, ...)
    error = (output - denoiser.target(x_0, eps, t)) ** 2
    weight = loss_weight(schedule, t, denoiser.prediction, weighting, gamma).to(error.dtype)                 # (B,)
    loss = weight.to(error.device) * error.flatten(1).mean(1)                                                # (B,)
    if vlb_weight:
        # The mean is left to L_simple: L_vlb only teaches the variance (improved DDPM, section 3.1).
        x_0_hat = denoiser.interpret(output.detach(), x_t, t).x_0
        bits = vlb_bits(schedule, x_0_hat, var_frac, x_0.to(error.dtype), x_t.to(error.dtype), t)            # (B,)
        loss = loss + vlb_weight * schedule.num_timesteps * bits
    return loss


def loss_weight(schedule: Schedule, t: Tensor, prediction: str, weighting: str, gamma: float = 5.0) -> Tensor:
    """The factor on the squared error of eps, x_0 or v at t: (B,), float64.

    min-SNR is min(SNR, gamma) on the squared error of x_0 (Hang et al. 2023, section 3.4). At a given x_t an error
    of eps or v is an error of x_0, times SNR or SNR + 1 once squared, so those divide.

    Raises:
        ValueError: the weighting is unknown.
    """
    snr = process.snr(schedule, t)                                                                           # (B,)
    if weighting == "simple":
        return torch.ones_like(snr)
    if weighting != "min_snr":
        raise ValueError(f"unknown weighting {weighting!r}; choose one of {', '.join(WEIGHTINGS)}")
    squared_error_over_that_of_x_0 = {"eps": snr, "x_0": torch.ones_like(snr), "v": snr + 1}[prediction]
    return snr.clamp(max=gamma) / squared_error_over_that_of_x_0


def vlb_bits(schedule: Schedule, x_0_hat: Tensor, var_frac: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """One term of the variational bound, in bits a dimension: (B,) (improved DDPM, eq. 4 to 6).

    For t >= 1, KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)); for t = 0, -log p_theta(x_0 | x_t) of 8-bit
    data. It reads x_0-hat, so it does not ask what the network predicts.

    Args:
        x_0_hat, var_frac: (B, ...) the prediction.
        x_0, x_t: (B, ...) the truth; x_0 in [-1, 1] with 256 levels.
        t: LongTensor (B,) in 0..T-1.
    """
    mean = process.posterior_mean(schedule, x_0_hat, x_t, t)                                              # (B, ...)
    log_variance = process.learned_log_variance(schedule, var_frac, t)                                    # (B, ...)
    true_mean = process.posterior_mean(schedule, x_0, x_t, t)
    true_log_variance = broadcast(process.posterior_variance(schedule, t.clamp(min=1)).log(), x_t)     # (B, 1, ...)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(1)                    # (B,)
    log_likelihood = discretised_log_likelihood(x_0, mean, log_variance).flatten(1).mean(1)                  # (B,)
    return torch.where(t == 0, -log_likelihood, kl) / math.log(2)


def gaussian_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q || p) of two normal distributions, elementwise, in nats."""
    log_ratio = log_variance_q - log_variance_p
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + (mean_q - mean_p) ** 2 * (-log_variance_p).exp())


def discretised_log_likelihood(x_0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the normal mass in the 8-bit bin around x_0, elementwise, in nats (DDPM, eq. 13).

    The bins of -1 and 1 reach to -inf and inf.
    """
    half_bin = 1 / 255
    inverse_std = (-0.5 * log_variance).exp()
    low = torch.where(x_0 < -1 + half_bin, -math.inf, (x_0 - mean - half_bin) * inverse_std)
    high = torch.where(x_0 > 1 - half_bin, math.inf, (x_0 - mean + half_bin) * inverse_std)
    # A bin above the mean holds as much as its mirror image below, where the cdf is small and its digits are kept.
    above = low + high > 0
    low, high = torch.where(above, -high, low), torch.where(above, -low, high)
    return (_normal_cdf(high) - _normal_cdf(low)).clamp(min=1e-30).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The standard normal cdf. torch.special.ndtr would be 0 below -6 in float32; erfc keeps its digits there."""
    return 0.5 * torch.erfc(-x * math.sqrt(0.5))
