"""Samplers: each a function of a denoiser, noise and timesteps.

What they share:
    denoiser: (x_t (B, ...), t LongTensor (B,)) -> Prediction.
    x_T: (B, ...) standard normal noise, float32 or float64.
    timesteps: LongTensor (n,), strictly decreasing, as from `Schedule.timesteps`; n = 1 will do. Sampling starts at
        the first and goes from the last to clean data; that last step adds no noise.
    noise: x -> standard normal noise like x, such as a `SeededNoise` or `torch.randn_like`.
    callback: called as (i, n, x_t, prediction) at every step i of n, before x_t is left.
All give (B, ...), leave x_T as it is, and raise ValueError for timesteps that do not decrease.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from unclip.diffusion import process
from unclip.diffusion.denoiser import Prediction
from unclip.diffusion.schedule import Schedule

DenoiserFn = Callable[[Tensor, Tensor], Prediction]
Noise = Callable[[Tensor], Tensor]
Callback = Callable[[int, int, Tensor, Prediction], None]

VARIANCES = ("fixed_small", "fixed_large", "learned_range")


@torch.no_grad()
def ddpm(
    denoiser: DenoiserFn,
    x_T: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    noise: Noise,
    variance: str = "fixed_small",
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling (DDPM, algorithm 2), also on a sub-sequence of the timesteps (improved DDPM, section 4).

    Args:
        variance: "fixed_small" for beta-tilde, "fixed_large" for beta (DDPM, section 3.2), "learned_range" for the
            network's own (improved DDPM, eq. 15).

    Raises:
        ValueError: the variance is unknown, or is to be learned and the denoiser gives none.
    """
    if variance not in VARIANCES:
        raise ValueError(f"unknown variance {variance!r}; choose one of {', '.join(VARIANCES)}")
    x_t = x_T
    for i, t, t_prev in _steps(timesteps):
        prediction = _predict(denoiser, x_t, t, i, len(timesteps), callback)
        mean = process.posterior_mean(schedule, prediction.x_0, x_t, t, t_prev)                           # (B, ...)
        if t_prev < 0:
            return mean
        x_t = mean + _std(schedule, prediction, variance, t, t_prev) * noise(mean)


def _std(schedule: Schedule, prediction: Prediction, variance: str, t: int, t_prev: int) -> Tensor:
    """sigma_t of a DDPM step from t to t_prev >= 0: () where fixed, (B, ...) where learned."""
    if variance == "fixed_small":
        return process.posterior_variance(schedule, t, t_prev).sqrt()
    if variance == "fixed_large":
        return (1 - process.step_alpha(schedule, t, t_prev)).sqrt()
    if prediction.var_frac is None:
        raise ValueError("variance 'learned_range' needs a denoiser with a learned variance")
    return (0.5 * process.learned_log_variance(schedule, prediction.var_frac, t, t_prev)).exp()


@torch.no_grad()
def ddim(
    denoiser: DenoiserFn,
    x_T: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    noise: Noise | None = None,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al. 2020, eq. 12 and 16).

    Args:
        noise: read only where eta > 0.
        eta: 0 is deterministic, 1 is `ddpm` with its small variance.

    Raises:
        ValueError: eta is outside [0, 1], or is positive and there is no noise.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if eta > 0 and noise is None:
        raise ValueError("eta > 0 needs noise")
    x_t = x_T
    for i, t, t_prev in _steps(timesteps):
        prediction = _predict(denoiser, x_t, t, i, len(timesteps), callback)
        sigma = eta * process.posterior_variance(schedule, t, t_prev).sqrt()              # (), eq. 16; 0 at the end
        alpha_bar_prev = schedule.alpha_bar_at(t_prev)
        towards_x_t = (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt()
        x_t = alpha_bar_prev.sqrt() * prediction.x_0 + towards_x_t * prediction.eps       # (B, ...), eq. 12
        if sigma > 0:
            x_t = x_t + sigma * noise(x_t)
    return x_t


@torch.no_grad()
def ddim_inverse(
    denoiser: DenoiserFn, x_0: Tensor, timesteps: Tensor, schedule: Schedule, callback: Callback | None = None
) -> Tensor:
    """The x_T from which `ddim` with these timesteps and eta = 0 comes back to x_0, nearly (Song et al. 2020, 4.3).

    A DDIM step is x_{t_prev} = a x_t + b eps-hat(x_t, t). Solved for x_t it asks for eps-hat at the unknown x_t;
    eps-hat(x_{t_prev}, t) stands in, so the error vanishes as the steps get small.

    Args:
        x_0: (B, ...) clean data.
        timesteps: decreasing, those that `ddim` will use; they are walked backwards.
    """
    x_t = x_0
    for i, t, t_prev in reversed(list(_steps(timesteps))):
        eps = _predict(denoiser, x_t, t, len(timesteps) - 1 - i, len(timesteps), callback).eps            # (B, ...)
        x_0_hat = process.x_0_from_eps(schedule, x_t, eps, t_prev)
        x_t = process.q_sample(schedule, x_0_hat, t, eps)
    return x_t


@torch.no_grad()
def dpm_solver_pp(
    denoiser: DenoiserFn,
    x_T: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    noise: Noise | None = None,
    stochastic: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2), first and last step of first order.

    In the last step the log-SNR goes to infinity, where only the first-order step has a limit: x_0-hat.

    Args:
        noise: read only where `stochastic`.
        stochastic: SDE-DPM-Solver++(2M) (there, on the diffusion SDE): of the SDE, in the place of its ODE. Its step of first
            order is that of `ddpm`.

    Raises:
        ValueError: it is to be stochastic, and there is no noise.
    """
    if stochastic and noise is None:
        raise ValueError("a stochastic solver needs noise")
    x_t, x_0_before, h_before = x_T, None, None
    for i, t, t_prev in _steps(timesteps):
        x_0 = _predict(denoiser, x_t, t, i, len(timesteps), callback).x_0                                 # (B, ...)
        sigma, sigma_next = (1 - schedule.alpha_bar_at(t)).sqrt(), (1 - schedule.alpha_bar_at(t_prev)).sqrt()
        alpha_next = schedule.alpha_bar_at(t_prev).sqrt()
        h = _half_log_snr(schedule, t_prev) - _half_log_snr(schedule, t)
        if x_0_before is None or t_prev < 0:
            D = x_0
        else:
            r = h_before / h
            D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
        if stochastic:
            x_t = sigma_next / sigma * torch.exp(-h) * x_t - alpha_next * torch.expm1(-2 * h) * D         # (B, ...)
            if t_prev >= 0:
                x_t = x_t + sigma_next * (-torch.expm1(-2 * h)).sqrt() * noise(x_t)
        else:
            x_t = sigma_next / sigma * x_t - alpha_next * torch.expm1(-h) * D                             # (B, ...)
        x_0_before, h_before = x_0, h
    return x_t


def _half_log_snr(schedule: Schedule, t: int) -> Tensor:
    """lambda_t = log(alpha_t / sigma_t) of Lu et al.: (), inf for clean data."""
    alpha_bar = schedule.alpha_bar_at(t)
    return 0.5 * (alpha_bar.log() - (1 - alpha_bar).log())


def _steps(timesteps: Tensor) -> Iterator[tuple[int, int, int]]:
    """(i, t, t_prev) for every step; the last t_prev is -1, clean data."""
    levels = [*timesteps.tolist(), -1]
    if len(levels) < 2 or any(t <= t_prev for t, t_prev in zip(levels, levels[1:])):
        raise ValueError(f"timesteps must be one or more, all >= 0 and strictly decreasing, got {levels[:-1]}")
    for i, (t, t_prev) in enumerate(zip(levels, levels[1:])):
        yield i, t, t_prev


def _predict(
    denoiser: DenoiserFn, x_t: Tensor, t: int, i: int, n: int, callback: Callback | None
) -> Prediction:
    prediction = denoiser(x_t, torch.full((len(x_t),), t, dtype=torch.long, device=x_t.device))
    if callback is not None:
        callback(i, n, x_t, prediction)
    return prediction


def noise_calls(sampler: str, n: int) -> int:
    """How often one of `SAMPLERS`, with no options, asks for noise in n steps."""
    return n - 1 if sampler in ("ddpm", "dpm++sde") else 0


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm, "ddim": ddim, "dpm++": dpm_solver_pp, "dpm++sde": partial(dpm_solver_pp, stochastic=True),
}  # fmt: skip
