"""Whole trajectories against the schedulers of diffusers, with a shared fake network and shared noise.

Diffusers keeps float32 tables; ours in float64 are put in their place, so that the comparison is of the steps alone.
"""

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UnCLIPScheduler,
)

from unclip.diffusion import Denoiser, Schedule, ddim, ddim_inverse, ddpm, dpm_solver_pp, thresholded

# (name here, name in diffusers)
PREDICTIONS = [("eps", "epsilon"), ("x_0", "sample"), ("v", "v_prediction")]
SHAPE = (2, 3, 4)


def network(x_t, t):
    """Smooth in x_t and t, and of ordinary size. t is an int or (B,)."""
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
    return torch.tanh(x_t * (1 + t / 1000)) + 0.2 * torch.sin(3 * x_t)


def network_with_variance(x_t, t):
    return torch.cat([network(x_t, t), torch.sin(5 * x_t)], dim=1)


def in_float64(scheduler, schedule):
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = schedule.beta, schedule.alpha, schedule.alpha_bar
    return scheduler


def x_T():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shared_noise():
    """A generator for diffusers, and noise for us that draws the same numbers."""
    ours = torch.Generator().manual_seed(2)
    noise = lambda x: torch.randn(x.shape, generator=ours, dtype=x.dtype)  # noqa: E731
    return torch.Generator().manual_seed(2), noise


def trajectory(sampler, denoiser, schedule, timesteps, x=None, **options):
    """Every x_t and the result."""
    steps = []
    x_0 = sampler(
        denoiser,
        x_T() if x is None else x,
        timesteps,
        schedule,
        callback=lambda i, n, x_t, prediction: steps.append(x_t),
        **options,
    )
    return torch.stack([*steps, x_0])


def their_trajectory(scheduler, network, timesteps, x=None, **options):
    steps = [x_T() if x is None else x]
    for t in timesteps.tolist():
        steps.append(scheduler.step(network(steps[-1], t), t, steps[-1], **options).prev_sample)
    return torch.stack(steps)


def assert_equal(ours, theirs, tolerance=1e-9):
    scale = theirs.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("prediction, theirs", PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("n", [7, 50])
def test_ddpm_equals_ddpm_scheduler(schedule, prediction, theirs, variance, n):
    learned = variance == "learned_range"
    net = network_with_variance if learned else network
    timesteps, (generator, noise) = schedule.timesteps(n), shared_noise()
    scheduler = in_float64(
        DDPMScheduler(1000, prediction_type=theirs, variance_type=variance, clip_sample=False), schedule
    )
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    denoiser = Denoiser(net, schedule, prediction, learned_variance=learned)
    assert_equal(
        trajectory(ddpm, denoiser, schedule, timesteps, noise=noise, variance=variance),
        their_trajectory(scheduler, net, timesteps, generator=generator),
    )


def test_full_ddpm_equals_ddpm_scheduler_with_clipping(schedule):
    timesteps, (generator, noise) = schedule.timesteps(1000), shared_noise()
    scheduler = in_float64(DDPMScheduler(1000, clip_sample=True), schedule)
    denoiser = thresholded(Denoiser(network, schedule), schedule, static=1.0)
    assert_equal(
        trajectory(ddpm, denoiser, schedule, timesteps, noise=noise),
        their_trajectory(scheduler, network, timesteps, generator=generator),
    )


def test_ddpm_equals_ddpm_scheduler_with_dynamic_thresholding(schedule):
    timesteps, (generator, noise) = schedule.timesteps(20), shared_noise()
    scheduler = in_float64(
        DDPMScheduler(1000, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1e9), schedule
    )
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    denoiser = thresholded(Denoiser(network, schedule), schedule, dynamic=0.9)
    assert_equal(
        trajectory(ddpm, denoiser, schedule, timesteps, noise=noise),
        their_trajectory(scheduler, network, timesteps, generator=generator),
    )


@pytest.mark.parametrize("prediction, theirs", PREDICTIONS[:2])
@pytest.mark.parametrize(
    "theirs_variance, ours", [("fixed_small_log", "fixed_small"), ("learned_range", "learned_range")]
)
@pytest.mark.parametrize("clip", [False, True])
def test_ddpm_equals_unclip_scheduler(prediction, theirs, theirs_variance, ours, clip):
    schedule = Schedule.cosine(1000)
    learned = ours == "learned_range"
    net = network_with_variance if learned else network
    scheduler = in_float64(
        UnCLIPScheduler(1000, variance_type=theirs_variance, prediction_type=theirs, clip_sample=clip), schedule
    )
    scheduler.set_timesteps(25)
    timesteps, (generator, noise) = schedule.timesteps(25, "linspace"), shared_noise()
    denoiser = Denoiser(net, schedule, prediction, learned_variance=learned)
    denoiser = thresholded(denoiser, schedule, static=1.0 if clip else None)

    steps = [x_T()]
    for t, t_prev in zip(scheduler.timesteps.tolist(), [*scheduler.timesteps[1:].tolist(), None]):
        output = net(steps[-1], t)
        steps.append(scheduler.step(output, t, steps[-1], prev_timestep=t_prev, generator=generator).prev_sample)
    assert_equal(trajectory(ddpm, denoiser, schedule, timesteps, noise=noise, variance=ours), torch.stack(steps))


@pytest.mark.parametrize("prediction, theirs", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("n", [5, 50, 1000])
def test_ddim_equals_ddim_scheduler(schedule, prediction, theirs, eta, n):
    timesteps, (generator, noise) = schedule.timesteps(n, "leading"), shared_noise()
    scheduler = in_float64(DDIMScheduler(1000, prediction_type=theirs, clip_sample=False), schedule)
    scheduler.set_timesteps(n)
    assert_equal(
        trajectory(ddim, Denoiser(network, schedule, prediction), schedule, timesteps, noise=noise, eta=eta),
        their_trajectory(scheduler, network, timesteps, eta=eta, generator=generator),
    )


@pytest.mark.parametrize("n", [5, 50, 1000])
def test_ddim_inverse_equals_ddim_inverse_scheduler(schedule, n):
    # Only for eps: diffusers turns x_0 and v into eps with the alpha_bar of the level that it leaves, though the
    # network was asked at the level that it enters.
    timesteps, x_0 = schedule.timesteps(n, "leading"), x_T().clamp(-1, 1)
    scheduler = in_float64(DDIMInverseScheduler(1000, clip_sample=False), schedule)
    scheduler.set_timesteps(n)
    assert torch.equal(scheduler.timesteps, timesteps.flip(0))
    assert_equal(
        trajectory(ddim_inverse, Denoiser(network, schedule), schedule, timesteps, x=x_0),
        their_trajectory(scheduler, network, timesteps.flip(0), x=x_0),
    )


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers
@pytest.mark.parametrize("prediction, theirs", PREDICTIONS)
@pytest.mark.parametrize("n", [1, 2, 8, 30])
@pytest.mark.parametrize("stochastic, algorithm", [(False, "dpmsolver++"), (True, "sde-dpmsolver++")])
def test_dpm_solver_equals_dpm_solver_scheduler(schedule, prediction, theirs, n, stochastic, algorithm):
    timesteps, (generator, noise) = schedule.timesteps(n, "leading"), shared_noise()
    scheduler = in_float64(DPMSolverMultistepScheduler(1000, prediction_type=theirs, algorithm_type=algorithm), schedule)
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    alpha_bar = schedule.alpha_bar[timesteps]
    scheduler.sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt(), torch.zeros(1, dtype=torch.float64)])
    steps = [x_T()]
    for t in timesteps.tolist():
        drawn = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        steps.append(scheduler.step(network(steps[-1], t), t, steps[-1], variance_noise=drawn).prev_sample)
    # Their step casts x_t to float32: 1e-7 a step.
    denoiser = Denoiser(network, schedule, prediction)
    ours = trajectory(dpm_solver_pp, denoiser, schedule, timesteps, noise=noise, stochastic=stochastic)
    assert_equal(ours, torch.stack(steps), tolerance=1e-5)
