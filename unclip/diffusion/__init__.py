"""The mathematics of diffusion: it knows no network, no text and no image format."""

from unclip.diffusion.denoiser import Denoiser, Prediction
from unclip.diffusion.guidance import composed, corrected, during, guided, keeping, thresholded
from unclip.diffusion.losses import draw_timesteps, training_loss
from unclip.diffusion.noise import SeededNoise, draws_on, noise_like
from unclip.diffusion.samplers import SAMPLERS, ddim, ddim_inverse, ddpm, dpm_solver_pp, noise_calls
from unclip.diffusion.schedule import Schedule

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "Prediction",
    "Schedule",
    "SeededNoise",
    "composed",
    "corrected",
    "ddim",
    "ddim_inverse",
    "ddpm",
    "dpm_solver_pp",
    "draw_timesteps",
    "draws_on",
    "during",
    "guided",
    "keeping",
    "noise_calls",
    "noise_like",
    "thresholded",
    "training_loss",
]
