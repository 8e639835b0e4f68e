"""Progressive distillation: what one step must say to land where several land (Salimans & Ho 2022, algorithm 2).

A `path` holds the timesteps that DDIM visits from x_t on, for every sample its own: LongTensor (B, k + 1), strictly
decreasing in every row, for k steps; its last column is where they land, -1 for clean data.
"""

import torch
from torch import Tensor

from unclip.diffusion import process
from unclip.diffusion.samplers import DenoiserFn
from unclip.diffusion.schedule import Schedule, broadcast


@torch.no_grad()
def distilled_x_0(denoiser: DenoiserFn, x_t: Tensor, path: Tensor, schedule: Schedule) -> Tensor:
    """The x_0-hat with which one DDIM step along the whole path lands where the denoiser lands in its k steps: (B, ...).

    Args:
        denoiser: (x_t, t) -> Prediction: the teacher, guided as it is to be learned (Meng et al. 2023, section 3.1).
        x_t: (B, ...) at the timesteps path[:, 0].

    It is a mean of the k predictions of x_0, each weighted by the step's share of the rise of sqrt(SNR); so it lies in
    the range of the data where they do. On a path to clean data it is the last of them.
    """
    x = x_t
    for t, t_next in zip(path.T[:-1], path.T[1:]):
        prediction = denoiser(x, t.to(x.device))
        x = process.q_sample(schedule, prediction.x_0, t_next, prediction.eps)       # DDIM, eta = 0: eq. 12 of Song et al.
    return x_0_of_step(schedule, x_t, x, path[:, 0], path[:, -1])


def x_0_of_step(schedule: Schedule, x_t: Tensor, x_end: Tensor, t: process.Time, t_end: process.Time) -> Tensor:
    """The x_0-hat of a DDIM step from x_t at t to x_end at t_end < t (Salimans & Ho 2022, algorithm 2 and appendix G):
    (x_end - (sigma_end / sigma_t) x_t) / (alpha_end - (sigma_end / sigma_t) alpha_t)."""
    alpha_bar, alpha_bar_end = schedule.alpha_bar_at(t), schedule.alpha_bar_at(t_end)
    ratio = ((1 - alpha_bar_end) / (1 - alpha_bar)).sqrt()
    of_x_0 = alpha_bar_end.sqrt() - ratio * alpha_bar.sqrt()
    return (x_end - broadcast(ratio, x_t) * x_t) / broadcast(of_x_0, x_end)
