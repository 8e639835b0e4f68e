import pytest
import torch

from unclip.diffusion import (
    SAMPLERS, Denoiser, Schedule, SeededNoise, draw_timesteps, draws_on, noise_calls, noise_like,
)  # fmt: skip

SEEDS = [7, 8, 9, 10, 11]
SHAPE = (3, 4, 4)


def trajectory(sampler, seeds, **options):
    """Every x_t of a run, (n + 1, B, 3, 4, 4), with a denoiser that treats each number alone."""
    schedule = Schedule.cosine(1000)
    denoiser = Denoiser(lambda x_t, t: x_t.clamp(-1, 1), schedule, "v")
    noise, steps = SeededNoise(seeds), []
    x_T = noise((len(seeds), *SHAPE))
    record = lambda i, n, x_t, prediction: steps.append(x_t)  # noqa: E731
    x_0 = SAMPLERS[sampler](denoiser, x_T, schedule.timesteps(6), schedule, noise=noise, callback=record, **options)
    return torch.stack([*steps, x_0])


@pytest.mark.parametrize("sampler, options", [("ddpm", {}), ("ddim", {"eta": 0.7}), ("dpm++", {})])
def test_a_picture_does_not_depend_on_its_batch(sampler, options):
    together = trajectory(sampler, SEEDS, **options)
    for batch in ([8], [11, 8], [8, 7, 9]):
        apart = trajectory(sampler, batch, **options)
        for row, seed in enumerate(batch):
            assert torch.equal(apart[:, row], together[:, SEEDS.index(seed)])


def test_draws_follow_one_another_and_seeds_differ():
    noise = SeededNoise([1, 2])
    first, second = noise((2, 50)), noise((2, 50))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_runs_side_by_side_get_the_noise_that_they_get_one_after_another():
    ahead = SeededNoise([1, 2]).ahead(runs=3, draws=4, shape=(2, 5))
    noise = SeededNoise([1, 2])
    for run in range(3):
        for draw in range(4):
            one = noise((2, 5))
            assert torch.equal(ahead[draw, run], one[0]) and torch.equal(ahead[draw, 3 + run], one[1])
    assert ahead.shape == (4, 2 * 3, 5)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_how_often_a_sampler_asks_for_noise(sampler, steps):
    schedule, calls = Schedule.cosine(1000), []
    denoiser = Denoiser(lambda x_t, t: x_t, schedule, "v")
    noise = lambda x: calls.append(x) or torch.zeros_like(x)  # noqa: E731
    SAMPLERS[sampler](denoiser, torch.ones(1, 5), schedule.timesteps(steps), schedule, noise=noise)
    assert len(calls) == noise_calls(sampler, steps)


def test_noise_is_standard_normal():
    x = SeededNoise([1, 2])((2, 20_000))
    # Standard errors: 0.007 for a mean, 0.005 for a standard deviation.
    assert x.mean(1).abs().max() < 0.03 and (x.std(1) - 1).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_noise_like_x_is_the_same_draw_in_the_dtype_of_x(dtype):
    x = torch.zeros(2, 5, dtype=dtype)
    expected = SeededNoise([1, 2])((2, 5)).to(dtype)
    assert torch.equal(SeededNoise([1, 2])(x), expected)
    assert torch.equal(SeededNoise([1, 2]).like(x), expected)


def test_a_batch_that_is_not_one_row_a_seed_is_an_error():
    with pytest.raises(ValueError, match="2 seeds cannot fill a batch of 3"):
        SeededNoise([1, 2])((3, 5))


def test_without_a_generator_noise_is_drawn_where_it_is_needed():
    """A device that holds no numbers stands for a GPU: the CPU's generator is left alone."""
    state = torch.get_rng_state()
    noise = noise_like(torch.empty(2, 3, device="meta", dtype=torch.float64))
    assert noise.is_meta and noise.shape == (2, 3) and noise.dtype == torch.float64
    assert draw_timesteps(4, 10, device="meta").is_meta
    assert torch.equal(torch.get_rng_state(), state)
    assert [draws_on(device).type for device in ("cuda:1", "mps", "cpu")] == ["cuda", "cpu", "cpu"]
    assert draws_on("cuda:1", torch.Generator()) == torch.device("cpu")


def test_with_a_generator_noise_is_the_generators_on_every_device():
    x, generator = torch.empty(2, 3, dtype=torch.float64), torch.Generator()
    expected = torch.randn(2, 3, generator=generator.manual_seed(1))
    assert torch.equal(noise_like(x, generator.manual_seed(1)), expected.double())
    after = generator.get_state()
    assert noise_like(x.to("meta"), generator.manual_seed(1)).is_meta and torch.equal(generator.get_state(), after)
    torch.manual_seed(1)
    assert torch.equal(noise_like(x), expected.double())  # the CPU's own, as ever
