"""What decoder and upsamplers draw from: noise, a picture, what an inversion found; and what a mask keeps."""

import pytest
import torch

from unclip.diffusion import Prediction, SeededNoise, process
from unclip.stage import AGAIN, Start


@pytest.fixture
def stage(make_decoder):
    return make_decoder()


@pytest.fixture
def smooth(stage):
    """The exact denoiser of pictures whose pixels are independent, normal, of mean 0.2 and deviation 0.3."""

    def denoise(x_t, t):
        alpha_bar = stage.schedule.alpha_bar_at(t).to(x_t)[:, None, None, None]
        gain = alpha_bar.sqrt() * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar)
        x_0 = 0.2 + gain * (x_t - alpha_bar.sqrt() * 0.2)
        return Prediction(x_0, process.eps_from_x_0(stage.schedule, x_t, x_0, t))

    return denoise


SHAPE = (3, 3, 8, 8)


def draw(stage, denoiser, noise=None, steps=10, **options):
    noise = noise or SeededNoise([1, 2, 3])
    return stage.draw(denoiser, SHAPE, noise=noise, num_inference_steps=steps, **options)


def picture(seed=5):
    return 0.2 + 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


# ---- inversion -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_error_of_an_inverted_picture_falls_as_steps_grow(stage, smooth, strength):
    x_0, errors = picture().clamp(-1, 1), []
    for steps in (5, 20, 80, 320):
        x_t = stage.inverted(smooth, x_0, num_inference_steps=steps, strength=strength)
        back = draw(stage, smooth, steps=steps, start=Start(x_t=x_t, strength=strength))
        errors.append((back - x_0).square().mean().sqrt().item())
    assert all(b < a / 2 for a, b in zip(errors, errors[1:])) and errors[-1] < 0.01


def test_the_decoders_own_inversion_comes_back(make_decoder):
    """The same through `invert` and `sample`, with a network that was not trained, guided."""
    decoder, errors = make_decoder(), []
    embed, x_0 = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), picture().clamp(-0.9, 0.9)
    for steps in (4, 16, 64):
        options = {"num_inference_steps": steps, "guidance_scale": 1.5}
        x_T = decoder.invert(x_0, embed, **options)
        back = decoder.sample(embed, noise=SeededNoise([1, 2, 3]), start=Start(x_t=x_T), **options)
        errors.append((back - x_0).square().mean().sqrt().item())
    assert errors[2] < errors[1] < errors[0] and errors[2] < 0.5 * errors[0]


# ---- starts ----------------------------------------------------------------------------------------------------------

def test_without_a_start_it_is_noise(stage, smooth):
    x_T = SeededNoise([1, 2, 3])(SHAPE)
    torch.testing.assert_close(draw(stage, smooth), draw(stage, smooth, start=Start(x_t=x_T)))


@pytest.mark.parametrize("strength, visited", [(1.0, 10), (0.6, 6), (0.05, 1)])
def test_a_picture_is_noised_as_far_as_the_strength_says(stage, smooth, strength, visited):
    seen = []
    draw(stage, smooth, start=Start(picture(), strength=strength), callback=lambda i, n, x_t, p: seen.append(x_t))
    assert len(seen) == visited == stage.num_steps(10, Start(picture(), strength=strength))
    t = int(stage.timesteps(10)[-visited])
    expected = process.q_sample(stage.schedule, picture(), t, SeededNoise([1, 2, 3])(SHAPE))
    torch.testing.assert_close(seen[0], expected)


def test_the_weaker_the_nearer_to_the_picture(stage, smooth):
    away = [(draw(stage, smooth, steps=50, start=Start(picture(), strength=s)) - picture().clamp(-1, 1)).norm().item()
            for s in (0.05, 0.2, 0.5, 1.0)]  # fmt: skip
    assert away == sorted(away) and away[0] < 0.2 * away[-1]


def test_one_picture_is_a_start_for_all(stage, smooth):
    one = picture()[:1]
    torch.testing.assert_close(
        draw(stage, smooth, start=Start(one, strength=0.5)), draw(stage, smooth, start=Start(one.expand(SHAPE), strength=0.5))
    )


def test_rows_of_a_start():
    start = Start(picture(), mask=torch.ones(1, 1, 8, 8), strength=0.5, rounds=2)
    part = start.rows(1, 3)
    assert torch.equal(part.picture, picture()[1:3]) and part.mask.shape == (1, 1, 8, 8)
    assert (part.strength, part.rounds, part.x_t) == (0.5, 2, None)


@pytest.mark.parametrize("options, says", [
    ({"strength": 0.5}, "needs a picture"), ({"mask": torch.ones(1, 1, 8, 8)}, "needs a picture"),
    ({"strength": 0.0}, "strength 0.0"), ({"strength": 1.5}, "strength 1.5"), ({"rounds": 0}, "0 rounds"),
])  # fmt: skip
def test_a_start_that_is_none(options, says):
    with pytest.raises(ValueError, match=says):
        Start(**options)


# ---- masks -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_mask_keeps_what_is_black_to_the_last_bit(stage, smooth, sampler, rounds):
    x_0, mask = picture().clamp(-1, 1), torch.zeros(1, 1, 8, 8)
    mask[..., :3] = 1
    drawn = draw(stage, smooth, sampler=sampler, start=Start(x_0, mask=mask, rounds=rounds))
    torch.testing.assert_close(drawn[..., 3:], x_0[..., 3:], rtol=0, atol=1e-6)
    assert (drawn[..., :3] - x_0[..., :3]).abs().mean() > 0.1


def test_every_round_begins_with_the_last_result(stage, smooth):
    x_0, mask, seen = picture().clamp(-1, 1), torch.zeros(1, 1, 8, 8), []
    mask[..., :3] = 1
    start = Start(x_0, mask=mask, rounds=3)
    draw(stage, smooth, start=start, callback=lambda i, n, x_t, p: seen.append((i, n)))
    again = round(AGAIN * 10)
    assert seen == [(i, 10) for i in range(10)] + [(i, again) for i in range(again)] * 2
    assert stage.num_steps(10, start) == 10 + 2 * again
    first, second, third = (draw(stage, smooth, start=Start(x_0, mask=mask, rounds=k)) for k in (1, 2, 3))
    assert (first - second).abs().max() > 1e-3 and (second - third).abs().max() > 1e-3


def test_what_is_drawn_agrees_with_what_is_kept(stage):
    """Pictures of one grey, drawn by their exact denoiser: the kept half says which, and the drawn half follows."""

    def denoise(x_t, t):
        alpha_bar = stage.schedule.alpha_bar_at(t).to(x_t)[:, None, None, None]
        n, mean = x_t[0].numel(), x_t.mean(dim=(1, 2, 3), keepdim=True)
        grey = mean * alpha_bar.sqrt() * 0.25 / (alpha_bar * 0.25 + (1 - alpha_bar) / n)
        x_0 = grey.expand_as(x_t)
        return Prediction(x_0, process.eps_from_x_0(stage.schedule, x_t, x_0, t))

    x_0, mask = torch.tensor([-0.6, 0.1, 0.7])[:, None, None, None].expand(SHAPE), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    free = draw(stage, denoise, steps=20)
    assert (free - x_0).abs().mean() > 0.3
    for rounds in (1, 3):
        drawn = draw(stage, denoise, steps=20, start=Start(x_0, mask=mask, rounds=rounds))
        assert (drawn - x_0)[..., :4].abs().mean() < 0.06


# ---- eta -------------------------------------------------------------------------------------------------------------

def test_eta_is_ddims_noise(stage, smooth):
    x_T = SeededNoise([9, 9, 9])(SHAPE)
    plain, noisy, ancestral = (
        draw(stage, smooth, start=Start(x_t=x_T), **options)
        for options in ({"eta": 0.0}, {"eta": 1.0}, {"sampler": "ddpm"})
    )
    torch.testing.assert_close(noisy, ancestral, rtol=0, atol=1e-5)  # DDIM, after eq. 16
    assert (plain - noisy).abs().max() > 0.05
