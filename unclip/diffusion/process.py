"""The forward process, its posterior, and the conversions between x_0, eps and v.

Every coefficient of the package is computed here, in float64, and cast to the dtype of x only at the end. t is an
int or a LongTensor (B,). `t_prev` is the next cleaner level: t - 1 unless a sampler skips steps, and -1 for clean
data. All the equations hold for a skipping pair (t, t_prev) once alpha_t reads alpha_bar_t / alpha_bar_{t_prev}
(improved DDPM, eq. 19).

Shapes: x_0, x_t, eps and v are (B, ...); the results too.
"""

import torch
from torch import Tensor

from unclip.diffusion.schedule import Schedule, broadcast

Time = int | Tensor


# ---- q: from clean to noisy ------------------------------------------------------------------------------------------

def step_alpha(schedule: Schedule, t: Time, t_prev: Time | None = None) -> Tensor:
    """alpha of the step from t_prev to t: alpha_bar_t / alpha_bar_{t_prev} (improved DDPM, eq. 19). Float64."""
    t_prev = t - 1 if t_prev is None else t_prev
    return schedule.alpha_bar_at(t) / schedule.alpha_bar_at(t_prev)


def q_step(schedule: Schedule, x_prev: Tensor, t: Time, eps: Tensor, t_prev: Time | None = None) -> Tensor:
    """x_t drawn from q(x_t | x_{t_prev}) with standard normal `eps` (DDPM, eq. 2)."""
    alpha = step_alpha(schedule, t, t_prev)
    return broadcast(alpha.sqrt(), x_prev) * x_prev + broadcast((1 - alpha).sqrt(), x_prev) * eps


def q_sample(schedule: Schedule, x_0: Tensor, t: Time, eps: Tensor) -> Tensor:
    """x_t drawn from q(x_t | x_0) with standard normal `eps` (DDPM, eq. 4)."""
    alpha_bar = schedule.alpha_bar_at(t)
    return broadcast(alpha_bar.sqrt(), x_0) * x_0 + broadcast((1 - alpha_bar).sqrt(), x_0) * eps


# ---- q(x_{t_prev} | x_t, x_0): the posterior -------------------------------------------------------------------------

def posterior_mean(schedule: Schedule, x_0: Tensor, x_t: Tensor, t: Time, t_prev: Time | None = None) -> Tensor:
    """mu-tilde_t(x_t, x_0) (DDPM, eq. 7). For t_prev = -1 it is x_0 itself."""
    t_prev = t - 1 if t_prev is None else t_prev
    alpha = step_alpha(schedule, t, t_prev)
    alpha_bar, alpha_bar_prev = schedule.alpha_bar_at(t), schedule.alpha_bar_at(t_prev)
    of_x_0 = alpha_bar_prev.sqrt() * (1 - alpha) / (1 - alpha_bar)
    of_x_t = alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return broadcast(of_x_0, x_0) * x_0 + broadcast(of_x_t, x_t) * x_t


def posterior_mean_from_eps(
    schedule: Schedule, eps: Tensor, x_t: Tensor, t: Time, t_prev: Time | None = None
) -> Tensor:
    """The same mean, written with the noise instead of x_0 (DDPM, eq. 11)."""
    alpha = step_alpha(schedule, t, t_prev)
    of_eps = (1 - alpha) / (1 - schedule.alpha_bar_at(t)).sqrt()
    return (x_t - broadcast(of_eps, eps) * eps) / broadcast(alpha.sqrt(), x_t)


def posterior_variance(schedule: Schedule, t: Time, t_prev: Time | None = None) -> Tensor:
    """beta-tilde_t (DDPM, eq. 7), float64, () or (B,). It is 0 for t_prev = -1."""
    t_prev = t - 1 if t_prev is None else t_prev
    beta = 1 - step_alpha(schedule, t, t_prev)
    return (1 - schedule.alpha_bar_at(t_prev)) / (1 - schedule.alpha_bar_at(t)) * beta


def learned_log_variance(schedule: Schedule, var_frac: Tensor, t: Time, t_prev: Time | None = None) -> Tensor:
    """log Sigma_theta: between log beta-tilde (var_frac 0) and log beta (var_frac 1) (improved DDPM, eq. 15).

    For t_prev = -1, log beta-tilde would be -inf; there beta-tilde is that of the step down to t_prev = 0, as in
    improved DDPM.

    Args:
        var_frac: (B, ...), usually in [0, 1]; an unbounded network may leave that range.
    """
    t_prev = t - 1 if t_prev is None else t_prev
    log_beta = (1 - step_alpha(schedule, t, t_prev)).log()
    t_floor, t_prev_floor = _at_least(t, 1), _at_least(t_prev, 0)
    log_beta_tilde = posterior_variance(schedule, t_floor, t_prev_floor).log()
    return var_frac * broadcast(log_beta, var_frac) + (1 - var_frac) * broadcast(log_beta_tilde, var_frac)


def _at_least(t: Time, least: int) -> Time:
    return max(t, least) if isinstance(t, int) else t.clamp(min=least)


# ---- x_0, eps and v: three names for one prediction, given x_t -------------------------------------------------------

def snr(schedule: Schedule, t: Time) -> Tensor:
    """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), float64, () or (B,); t >= 0."""
    alpha_bar = schedule.alpha_bar_at(t)
    return alpha_bar / (1 - alpha_bar)


def x_0_from_eps(schedule: Schedule, x_t: Tensor, eps: Tensor, t: Time) -> Tensor:
    """DDPM, eq. 4 solved for x_0 (their eq. 15)."""
    alpha_bar = schedule.alpha_bar_at(t)
    return (x_t - broadcast((1 - alpha_bar).sqrt(), eps) * eps) / broadcast(alpha_bar.sqrt(), x_t)


def eps_from_x_0(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: Time) -> Tensor:
    """DDPM, eq. 4 solved for eps; t >= 0."""
    alpha_bar = schedule.alpha_bar_at(t)
    return (x_t - broadcast(alpha_bar.sqrt(), x_0) * x_0) / broadcast((1 - alpha_bar).sqrt(), x_t)


def v_from_x_0_and_eps(schedule: Schedule, x_0: Tensor, eps: Tensor, t: Time) -> Tensor:
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, section 4)."""
    alpha_bar = schedule.alpha_bar_at(t)
    return broadcast(alpha_bar.sqrt(), eps) * eps - broadcast((1 - alpha_bar).sqrt(), x_0) * x_0


def x_0_from_v(schedule: Schedule, x_t: Tensor, v: Tensor, t: Time) -> Tensor:
    """x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans & Ho 2022, appendix D)."""
    alpha_bar = schedule.alpha_bar_at(t)
    return broadcast(alpha_bar.sqrt(), x_t) * x_t - broadcast((1 - alpha_bar).sqrt(), v) * v


def eps_from_v(schedule: Schedule, x_t: Tensor, v: Tensor, t: Time) -> Tensor:
    """eps = sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v (Salimans & Ho 2022, appendix D)."""
    alpha_bar = schedule.alpha_bar_at(t)
    return broadcast((1 - alpha_bar).sqrt(), x_t) * x_t + broadcast(alpha_bar.sqrt(), v) * v
