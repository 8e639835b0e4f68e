import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UnCLIPScheduler

from unclip.diffusion import Schedule
from unclip.diffusion.schedule import broadcast


def test_tables_follow_their_definitions(schedule):
    assert schedule.beta.dtype == schedule.alpha_bar.dtype == torch.float64
    assert schedule.num_timesteps == 1000
    products = np.cumprod([1 - b for b in schedule.beta.tolist()])
    np.testing.assert_allclose(schedule.alpha_bar, products, rtol=1e-12)
    assert schedule.alpha_bar_prev[0] == 1
    assert torch.equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])


def test_betas_equal_those_of_diffusers():
    # Diffusers computes in float32, in which a beta, as 1 - ratio near 1, has an absolute error of about 1e-7.
    linear = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear").betas
    cosine = UnCLIPScheduler(1000).betas
    torch.testing.assert_close(Schedule.linear(1000).beta.float(), linear, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(Schedule.cosine(1000).beta.float(), cosine, rtol=1e-6, atol=1e-7)


def test_cosine_alpha_bar_is_the_squared_cosine_until_the_betas_are_clipped():
    f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    t = np.arange(1, 999)
    np.testing.assert_allclose(Schedule.cosine(1000).alpha_bar[t - 1], f(t) / f(0), rtol=1e-9)


def test_alpha_bar_at_an_int_a_tensor_and_clean_data(schedule):
    t = torch.tensor([-1, 0, 999])
    assert schedule.alpha_bar_at(t).tolist() == [1.0, schedule.alpha_bar[0].item(), schedule.alpha_bar[999].item()]
    assert [schedule.alpha_bar_at(i).item() for i in t.tolist()] == schedule.alpha_bar_at(t).tolist()
    for outside in (-2, 1000):
        with pytest.raises(ValueError, match="-1..999"):
            schedule.alpha_bar_at(outside)


def test_broadcast_takes_dtype_and_dimensions_from_x():
    x = torch.ones(3, 2, 4, 5)
    of_batch = broadcast(torch.arange(3, dtype=torch.float64), x)
    assert of_batch.dtype == torch.float32 and of_batch.shape == (3, 1, 1, 1)
    assert (broadcast(torch.tensor(0.5, dtype=torch.float64), x) * x).dtype == torch.float32


@pytest.mark.parametrize("n", [2, 7, 25, 250, 999, 1000])
def test_spacings_equal_those_of_diffusers(n):
    schedule = Schedule.linear(1000)
    unclip = UnCLIPScheduler(1000)
    unclip.set_timesteps(n)
    assert torch.equal(schedule.timesteps(n, "linspace"), unclip.timesteps)
    for spacing in ("linspace", "leading", "trailing"):
        theirs = DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=0)
        theirs.set_timesteps(n)
        assert torch.equal(schedule.timesteps(n, spacing), theirs.timesteps)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_every_number_of_steps_gives_as_many_decreasing_timesteps(spacing):
    schedule = Schedule.linear(60)
    for n in range(1, 61):
        timesteps = schedule.timesteps(n, spacing).tolist()
        assert len(timesteps) == n and timesteps == sorted(set(timesteps), reverse=True)
        assert timesteps[-1] >= 0 and timesteps[0] <= 59
    assert timesteps == list(range(59, -1, -1))


def test_one_step_starts_where_the_noise_is():
    schedule = Schedule.linear(1000)
    assert schedule.timesteps(1, "linspace").tolist() == schedule.timesteps(1, "trailing").tolist() == [999]


def test_bad_arguments_are_named():
    schedule = Schedule.linear(10)
    for n in (0, -1, 11):
        with pytest.raises(ValueError, match="1..10"):
            schedule.timesteps(n)
    with pytest.raises(ValueError, match="linspace, leading, trailing"):
        schedule.timesteps(5, "uniform")
    with pytest.raises(ValueError, match="linear, cosine"):
        Schedule.named("sigmoid", 10)
    for beta in ([0.1, 1.0], [0.0, 0.1], [0.1], [[0.1, 0.1]]):
        with pytest.raises(ValueError, match="beta"):
            Schedule(beta)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("strength, kept", [(1.0, 10), (0.7, 7), (0.25, 2), (0.001, 1)])
def test_a_strength_leaves_the_last_of_the_steps(spacing, strength, kept):
    schedule = Schedule.cosine()
    whole = schedule.timesteps(10, spacing)
    assert schedule.timesteps(10, spacing, strength).tolist() == whole[-kept:].tolist()


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1])
def test_a_strength_that_is_no_share_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        Schedule.cosine().timesteps(10, strength=strength)
