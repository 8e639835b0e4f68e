import pytest
import torch

from unclip.diffusion import SAMPLERS, Denoiser, Prediction, Schedule, composed, ddim, during, guided, keeping, process, thresholded
from unclip.diffusion.guidance import dynamic_threshold


class Recorder:
    """A network with a learned variance, eps = x_t + c and raw variance = c; it notes the batch of every call."""

    def __init__(self):
        self.batches = []

    def __call__(self, x_t, t, c, caption=None):
        assert len(x_t) == len(t) == len(c)
        self.batches.append(len(x_t))
        c = c[:, None].expand_as(x_t)
        return torch.cat([x_t + c, c], dim=1)


@pytest.fixture
def schedule():
    return Schedule.linear(1000)


@pytest.fixture
def setting(schedule, generator):
    """network, denoiser, x_t (3, 2), t, cond and null."""
    network = Recorder()
    x_t = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    cond = {"c": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), "caption": None}
    null = {"c": torch.zeros(3, dtype=torch.float64), "caption": None}
    return network, Denoiser(network, schedule, learned_variance=True), x_t, torch.full((3,), 400), cond, null


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_x_0_and_eps_are_extrapolated_and_the_variance_is_not(setting, scale):
    _, denoiser, x_t, t, cond, null = setting
    with_c, without = denoiser(x_t, t, **cond), denoiser(x_t, t, **null)
    found = guided(denoiser, cond, null, scale)(x_t, t)
    torch.testing.assert_close(found.x_0, without.x_0 + scale * (with_c.x_0 - without.x_0))
    torch.testing.assert_close(found.eps, without.eps + scale * (with_c.eps - without.eps))
    assert torch.equal(found.var_frac, with_c.var_frac)


def test_guided_x_0_and_eps_still_agree_at_x_t(setting, schedule):
    _, denoiser, x_t, t, cond, null = setting
    found = guided(denoiser, cond, null, 7.0)(x_t, t)
    torch.testing.assert_close(process.q_sample(schedule, found.x_0, t, found.eps), x_t, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale, batch", [(1, 3), (1.0, 3), (0.0, 6), (3.0, 6)])
def test_one_call_a_step_doubled_only_where_there_is_guidance(setting, schedule, scale, batch):
    network, denoiser, x_t, _, cond, null = setting
    ddim(guided(denoiser, cond, null, scale), x_t, schedule.timesteps(5), schedule)
    assert network.batches == [batch] * 5


@pytest.mark.parametrize("start, end, doubled", [
    (0, 1, [1, 1, 1, 1, 1]), (0, 0.6, [1, 1, 1, 0, 0]), (0.2, 0.8, [0, 1, 1, 1, 0]), (0.4, 0.4, [0] * 5), (0.1, 1, [0, 1, 1, 1, 1]),
])  # fmt: skip
def test_guidance_in_a_part_of_the_way_doubles_no_other_step(setting, schedule, start, end, doubled):
    network, denoiser, x_t, _, cond, null = setting
    plain, with_guidance = (guided(denoiser, cond, null, scale) for scale in (1, 3.0))
    limited = during(with_guidance, plain, schedule, start, end)
    ddim(limited, x_t, schedule.timesteps(5, "trailing"), schedule)
    assert network.batches == [6 if there else 3 for there in doubled]
    for t in (999, 799, 599, 399, 199):
        t = torch.full((3,), t)
        meant = with_guidance if doubled[(999 - int(t[0])) // 200] else plain
        assert torch.equal(limited(x_t, t).x_0, meant(x_t, t).x_0)


def test_in_a_batch_of_several_timesteps_each_sample_is_guided_by_its_own(setting, schedule):
    _, denoiser, x_t, _, cond, null = setting
    plain, with_guidance = (guided(denoiser, cond, null, scale) for scale in (1, 3.0))
    t = torch.tensor([900, 500, 100])
    found = during(with_guidance, plain, schedule, 0.2, 0.8)(x_t, t)
    guided_, not_guided = with_guidance(x_t, t), plain(x_t, t)
    for name in ("x_0", "eps", "var_frac"):
        of = [getattr(p, name) for p in (not_guided, guided_, not_guided)]
        assert torch.equal(getattr(found, name), torch.stack([value[k] for k, value in enumerate(of)]))


@pytest.mark.parametrize("start, end", [(0.5, 0.4), (-0.1, 1), (0, 1.1)])
def test_a_part_of_the_way_lies_on_it(setting, schedule, start, end):
    denoiser = setting[1]
    with pytest.raises(ValueError, match=f"from {start} to {end}"):
        during(denoiser, denoiser, schedule, start, end)


def test_scale_1_is_the_conditional_model_to_the_last_bit(setting):
    _, denoiser, x_t, t, cond, null = setting
    found, plain = guided(denoiser, cond, null, 1.0)(x_t, t), denoiser(x_t, t, **cond)
    assert torch.equal(found.x_0, plain.x_0) and torch.equal(found.eps, plain.eps)


def test_inputs_stay_as_they_are(setting):
    _, denoiser, x_t, t, cond, null = setting
    before = [a.clone() for a in (x_t, t, cond["c"], null["c"])]
    guided(denoiser, cond, null, 5.0)(x_t, t)
    for a, b in zip((x_t, t, cond["c"], null["c"]), before):
        assert torch.equal(a, b)


def test_cond_and_null_must_have_the_same_keys_and_nones(setting):
    _, denoiser, _, _, cond, null = setting
    with pytest.raises(ValueError, match="keys"):
        guided(denoiser, cond, {"c": null["c"]}, 2.0)
    with pytest.raises(ValueError, match="caption"):
        guided(denoiser, cond, null | {"caption": torch.zeros(3, 4)}, 2.0)


def far_off(x_0, schedule):
    """A denoiser that always says x_0."""
    return lambda x_t, t: Prediction(x_0, process.eps_from_x_0(schedule, x_t, x_0, t), var_frac=x_t)


def test_static_thresholding_clamps_and_keeps_eps_in_agreement(schedule, generator):
    x_0, x_t = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    t = torch.tensor([10, 900])
    found = thresholded(far_off(x_0, schedule), schedule, static=1.5)(x_t, t)
    assert torch.equal(found.x_0, x_0.clamp(-1.5, 1.5))
    torch.testing.assert_close(process.q_sample(schedule, found.x_0, t, found.eps), x_t)
    assert found.var_frac is x_t


def test_dynamic_thresholding_scales_each_picture_by_its_own_percentile(schedule):
    small, large = torch.linspace(-0.9, 0.9, 101), torch.linspace(-4, 4, 101)
    x_0 = torch.stack([small, large]).double()
    found = thresholded(far_off(x_0, schedule), schedule, dynamic=0.9)(x_0, torch.tensor([10, 10])).x_0
    assert torch.equal(found[0], x_0[0])  # within [-1, 1] already: s = 1
    s = 3.6  # nine tenths of |x| lie below 0.9 * 4
    torch.testing.assert_close(found[1], x_0[1].clamp(-s, s) / s, rtol=0, atol=1e-6)


def test_dynamic_thresholding_equals_that_of_diffusers(generator):
    from diffusers import DDPMScheduler

    x_0 = torch.randn(3, 2, 8, 8, generator=generator) * torch.tensor([0.1, 1, 5]).reshape(3, 1, 1, 1)
    theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.97, sample_max_value=1e6)
    torch.testing.assert_close(dynamic_threshold(x_0, 0.97), theirs._threshold_sample(x_0))


def test_thresholding_with_no_threshold_is_nothing(schedule):
    denoiser = far_off(torch.zeros(1), schedule)
    assert thresholded(denoiser, schedule) is denoiser


@pytest.mark.parametrize("bad", [dict(static=1.0, dynamic=0.9), dict(static=0.0), dict(dynamic=99.5)])
def test_bad_thresholds_are_errors(schedule, bad):
    with pytest.raises(ValueError):
        thresholded(far_off(torch.zeros(1), schedule), schedule, **bad)


# ---- several conditions ----------------------------------------------------------------------------------------------

def test_one_condition_composed_is_guidance(setting):
    _, denoiser, x_t, t, cond, null = setting
    one, plain = composed(denoiser, [cond], null, torch.full((1, 1), 3.0))(x_t, t), guided(denoiser, cond, null, 3.0)(x_t, t)
    torch.testing.assert_close(one.x_0, plain.x_0)
    torch.testing.assert_close(one.var_frac, plain.var_frac)


def test_conditions_add_up_by_their_weights_picture_by_picture(setting):
    network, denoiser, x_t, t, cond, null = setting
    other = {"c": torch.tensor([0.7, -0.2, 0.4], dtype=torch.float64), "caption": None}
    weights = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]], dtype=torch.float64)
    found = composed(denoiser, [cond, other], null, weights)(x_t, t)
    assert network.batches == [9]
    a, b, without = denoiser(x_t, t, **cond), denoiser(x_t, t, **other), denoiser(x_t, t, **null)
    for name in ("x_0", "eps"):
        u, v, w = (getattr(p, name) for p in (a, b, without))
        expected = w + weights[0][:, None] * (u - w) + weights[1][:, None] * (v - w)
        torch.testing.assert_close(getattr(found, name), expected)
    torch.testing.assert_close(found.var_frac, a.var_frac)


def test_weight_zero_ignores_a_condition_and_a_negative_one_leads_away(setting):
    _, denoiser, x_t, t, cond, null = setting
    without = denoiser(x_t, t, **null)
    ignored, away = (composed(denoiser, [cond], null, torch.full((1, 3), w))(x_t, t) for w in (0.0, -1.0))
    torch.testing.assert_close(ignored.x_0, without.x_0)
    torch.testing.assert_close(away.x_0 - without.x_0, without.x_0 - denoiser(x_t, t, **cond).x_0)


# ---- what is kept ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_kept_ends_as_it_was_in_every_sampler(schedule, generator, sampler):
    """And what is drawn is what the sampler draws of it where the denoiser looks at no neighbour."""
    x_0, x_T = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64).unbind()
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    def denoiser(x_t, t):
        guess = torch.sin(3 * x_t)
        return Prediction(guess, process.eps_from_x_0(schedule, x_t, guess, t))

    def draw(denoise):
        steps = torch.Generator().manual_seed(1)
        return SAMPLERS[sampler](denoise, x_T, schedule.timesteps(7), schedule,
                                 noise=lambda x: torch.randn(x.shape, generator=steps, dtype=x.dtype))  # fmt: skip

    kept, free = draw(keeping(denoiser, schedule, x_0, mask)), draw(denoiser)
    torch.testing.assert_close(kept[:, mask == 0], x_0[:, mask == 0])
    torch.testing.assert_close(kept[:, mask == 1], free[:, mask == 1])


def test_what_is_kept_has_its_own_noise_at_every_level(schedule, generator):
    """In a deterministic sampler it is q_sample of the kept picture with the noise that it began with."""
    x_0, eps = torch.randn(2, 1, 5, generator=generator, dtype=torch.float64).unbind()
    timesteps, seen = schedule.timesteps(5), []
    x_T = process.q_sample(schedule, x_0, int(timesteps[0]), eps)
    nothing = lambda x_t, t: Prediction(torch.zeros_like(x_t), x_t)  # noqa: E731
    ddim(keeping(nothing, schedule, x_0, torch.zeros(1)), x_T, timesteps, schedule, callback=lambda i, n, x, p: seen.append(x))
    for t, x_t in zip(timesteps.tolist(), seen):
        torch.testing.assert_close(x_t, process.q_sample(schedule, x_0, t, eps))


def test_a_mask_between_mixes(schedule):
    x_t, t, x_0 = torch.zeros(1, 2), torch.tensor([400]), torch.tensor([[1.0, -1.0]])
    guess = lambda x_t, t: Prediction(torch.full_like(x_t, 0.5), x_t)  # noqa: E731
    found = keeping(guess, schedule, x_0, torch.tensor([0.25]))(x_t, t)
    torch.testing.assert_close(found.x_0, 0.25 * 0.5 + 0.75 * x_0)
    torch.testing.assert_close(process.q_sample(schedule, found.x_0, t, found.eps), x_t, rtol=0, atol=1e-6)
