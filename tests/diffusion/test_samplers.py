"""The samplers against closed forms. `test_samplers_diffusers.py` holds them against diffusers."""

import pytest
import torch

from unclip.diffusion import (
    SAMPLERS,
    Denoiser,
    Prediction,
    Schedule,
    SeededNoise,
    ddim,
    ddim_inverse,
    ddpm,
    dpm_solver_pp,
    guided,
    process,
    thresholded,
)

from .mixture import Marginals, Mixture

ALL = [
    ("ddpm", dict(variance="fixed_small")),
    ("ddpm", dict(variance="fixed_large")),
    ("ddpm", dict(variance="learned_range")),
    ("ddim", dict(eta=0.0)),
    ("ddim", dict(eta=0.5)),
    ("ddim", dict(eta=1.0)),
    ("dpm++", {}),
    ("dpm++sde", {}),
]


def gaussian(mean, std):
    return Mixture([1.0], [[mean]], [[[std**2]]])


def with_var_frac(denoiser, var_frac):
    def denoise(x_t, t):
        prediction = denoiser(x_t, t)
        return Prediction(prediction.x_0, prediction.eps, torch.full_like(x_t, var_frac))

    return denoise


# ---- exact marginals -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize(
    "sampler, options, var_frac",
    [
        ("ddpm", dict(variance="fixed_small"), None),
        ("ddpm", dict(variance="learned_range"), 0.0),
        ("ddim", dict(eta=0.0), None),
        ("ddim", dict(eta=0.5), None),
        ("ddim", dict(eta=1.0), None),
        ("dpm++", {}, None),
        ("dpm++sde", {}, None),
    ],
)
def test_for_one_data_point_every_marginal_is_exact(schedule, n, sampler, options, var_frac):
    """Then q(x_{t_prev} | x_t) is the posterior, so x_t ~ N(sqrt(alpha_bar) x_0, 1 - alpha_bar) at every step (DDPM,
    section 3.2: beta-tilde is optimal; DDIM, lemma 1: for every eta)."""
    point, timesteps = 0.7, schedule.timesteps(n, "trailing")
    alpha_bar = schedule.alpha_bar[timesteps]
    denoiser = lambda x_t, t: Prediction(  # noqa: E731
        torch.full_like(x_t, point), process.eps_from_x_0(schedule, x_t, torch.full_like(x_t, point), t)
    )
    denoiser = denoiser if var_frac is None else with_var_frac(denoiser, var_frac)
    exact = Marginals(n, alpha_bar[0].sqrt() * point, (1 - alpha_bar[0]).sqrt())
    x_0 = SAMPLERS[sampler](
        denoiser, exact.x_T, timesteps, schedule, noise=exact.noise, callback=exact.callback, **options
    )
    torch.testing.assert_close(exact.means, (alpha_bar.sqrt() * point).tolist(), rtol=1e-8, atol=0)
    torch.testing.assert_close(exact.variances, (1 - alpha_bar).tolist(), rtol=1e-8, atol=0)
    torch.testing.assert_close(x_0, torch.full_like(x_0, point), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("variance, var_frac", [("fixed_large", None), ("learned_range", 1.0)])
def test_for_standard_normal_data_ddpm_with_beta_is_exact(schedule, n, variance, var_frac):
    """Then x_t ~ N(0, 1) at every step (DDPM, section 3.2: beta is optimal); the last step gives the mean of x_0,
    whose variance is alpha_bar of the last timestep."""
    timesteps = schedule.timesteps(n, "trailing")
    denoiser = gaussian(0.0, 1.0).denoiser(schedule)
    denoiser = denoiser if var_frac is None else with_var_frac(denoiser, var_frac)
    exact = Marginals(n, 0.0, 1.0)
    exact.record(ddpm(denoiser, exact.x_T, timesteps, schedule, exact.noise, variance, exact.callback))
    variances = [1.0] * n + [schedule.alpha_bar[timesteps[-1]].item()]
    torch.testing.assert_close(exact.variances, variances, rtol=1e-8, atol=0)


def test_ddpm_variance_lies_between_its_two_choices_and_both_converge():
    """For other normal data neither variance is exact; beta-tilde is too small, beta too large, both by O(1/n)."""
    error = {}
    for T in (250, 500, 1000):
        scale = 1000 / T
        schedule = Schedule.linear(T, 1e-4 * scale, 0.02 * scale)
        for variance in ("fixed_small", "fixed_large"):
            exact = Marginals(T, 0.0, 1.0)
            denoiser = gaussian(0.0, 0.5).denoiser(schedule)
            timesteps = schedule.timesteps(T)
            exact.record(ddpm(denoiser, exact.x_T, timesteps, schedule, exact.noise, variance))
            error[T, variance] = exact.variances[-1] - 0.25
    for T in (250, 500, 1000):
        assert error[T, "fixed_small"] < 0 < error[T, "fixed_large"]
    for variance in ("fixed_small", "fixed_large"):
        assert error[250, variance] / error[500, variance] == pytest.approx(2, rel=0.25)
        assert error[500, variance] / error[1000, variance] == pytest.approx(2, rel=0.25)


# ---- convergence to the exact solution of the ODE --------------------------------------------------------------------

@pytest.mark.parametrize("sampler, order", [(ddim, 1), (dpm_solver_pp, 2)])
def test_deterministic_samplers_converge_at_their_order(sampler, order):
    """For N(m, s^2) the probability flow keeps (x_t - sqrt(alpha_bar) m) / std(x_t). Steps are even in the log-SNR, on
    a schedule fine enough for any step to find its timestep."""
    schedule = Schedule.linear(20_000, 5e-6, 1e-3)
    m, s = 0.4, 0.6
    std = (schedule.alpha_bar * s**2 + 1 - schedule.alpha_bar).sqrt()
    half_log_snr = 0.5 * (schedule.alpha_bar / (1 - schedule.alpha_bar)).log()
    denoiser = gaussian(m, s).denoiser(schedule)
    x_T = torch.tensor([[1.3]], dtype=torch.float64)
    first, last = 19_999, 200

    a = schedule.alpha_bar.sqrt()
    exact = a[last] * m + std[last] / std[first] * (x_T - a[first] * m)
    errors = []
    for n in (40, 80, 160):
        even = torch.linspace(half_log_snr[first], half_log_snr[last], n + 1, dtype=torch.float64)
        timesteps = (half_log_snr[:, None] - even).abs().argmin(0)
        reached = []
        sampler(denoiser, x_T, timesteps, schedule, callback=lambda i, n, x_t, prediction: reached.append(x_t))
        errors.append((reached[-1] - exact).abs().item())
    for coarse, fine in zip(errors, errors[1:]):
        assert coarse / fine == pytest.approx(2**order, rel=0.1)


def test_ddim_inverse_undoes_ddim_nearly_and_more_nearly_with_more_steps(generator):
    schedule = Schedule.cosine(1000)
    denoiser = TWO_MODES.denoiser(schedule)
    x_T = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    x_0 = ddim(denoiser, x_T, schedule.timesteps(1000), schedule)
    errors = []
    for n in (50, 200, 1000):
        timesteps = schedule.timesteps(n)
        there = ddim_inverse(denoiser, x_0, timesteps, schedule)
        back = ddim(denoiser, there, timesteps, schedule)
        errors.append((back - x_0).pow(2).mean().sqrt().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.02
    assert (there - x_T).pow(2).mean().sqrt() < 0.05


def test_ddim_inverse_is_exact_where_eps_does_not_depend_on_x(schedule, generator):
    eps, x_0 = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    denoiser = lambda x_t, t: Prediction(process.x_0_from_eps(schedule, x_t, eps, t), eps)  # noqa: E731
    for n in (1, 2, 20):
        timesteps = schedule.timesteps(n, "leading") + 10
        x_T = ddim_inverse(denoiser, x_0, timesteps, schedule)
        torch.testing.assert_close(x_T, process.q_sample(schedule, x_0, timesteps[0].item(), eps))
        torch.testing.assert_close(ddim(denoiser, x_T, timesteps, schedule), x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler, order", [("ddpm", 1), ("dpm++sde", 2)])
def test_stochastic_samplers_come_to_the_mean_of_the_sde_at_their_order(sampler, order):
    """Without noise, and with x_0-hat = a + b lambda, whatever x_t, the SDE in lambda is a linear ODE, and ends at
    (sigma_t / sigma_s) exp(-h) x_s + 2 alpha_t times the integral of exp(-2 (lambda_t - lambda)) x_0-hat over lambda."""
    schedule, a, b = Schedule.linear(20_000, 5e-6, 1e-3), 0.3, 0.5
    half_log_snr = 0.5 * (schedule.alpha_bar / (1 - schedule.alpha_bar)).log()

    def denoiser(x_t, t):
        x_0 = (a + b * half_log_snr[t]).view(-1, 1).expand_as(x_t)
        return Prediction(x_0, process.eps_from_x_0(schedule, x_t, x_0, t))

    x_T, first, last = torch.tensor([[1.3]], dtype=torch.float64), 19_999, 2_000
    alpha, sigma, h = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt(), half_log_snr[last] - half_log_snr[first]
    integral = (a + b * half_log_snr[last]) * -torch.expm1(-2 * h) - b / 2 * (1 - (-2 * h).exp() * (1 + 2 * h))
    exact = sigma[last] / sigma[first] * (-h).exp() * x_T + alpha[last] * integral
    errors = []
    for n in (40, 80, 160):
        even = torch.linspace(half_log_snr[first], half_log_snr[last], n + 1, dtype=torch.float64)
        timesteps, reached = (half_log_snr[:, None] - even).abs().argmin(0), []
        keep = lambda i, n, x_t, prediction: reached.append(x_t)  # noqa: E731, B023
        SAMPLERS[sampler](denoiser, x_T, timesteps, schedule, noise=torch.zeros_like, callback=keep)
        errors.append((reached[-1] - exact).abs().item())
    for coarse, fine in zip(errors, errors[1:]):
        assert coarse / fine == pytest.approx(2**order, rel=0.1)


# ---- a mixture, by Monte Carlo ---------------------------------------------------------------------------------------

TWO_MODES = Mixture(
    weights=[0.3, 0.7],
    means=[[-1.5, 0.5], [1.0, -0.5]],
    covariances=[[[0.20, 0.10], [0.10, 0.30]], [[0.40, -0.15], [-0.15, 0.10]]],
)


@pytest.mark.parametrize("sampler, options", ALL)
def test_every_sampler_reproduces_a_mixture(generator, sampler, options):
    schedule, count = Schedule.cosine(1000), 8000
    denoiser = with_var_frac(TWO_MODES.denoiser(schedule), 0.5)
    x_T = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    noise = lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)  # noqa: E731
    timesteps = schedule.timesteps(60 if sampler == "dpm++" else 200)
    x_0 = SAMPLERS[sampler](denoiser, x_T, timesteps, schedule, noise=noise, **options)

    # Four standard errors of each moment, and 0.02 for the finite number of steps.
    mean, covariance = TWO_MODES.mean, TWO_MODES.covariance
    variance = covariance.diagonal()
    assert ((x_0.mean(0) - mean).abs() < 4 * (variance / count).sqrt() + 0.02).all()
    standard_error = (2 * variance[:, None] * variance / count).sqrt()  # no fourth moment here exceeds the normal one
    assert ((x_0.T.cov() - covariance).abs() < 4 * standard_error + 0.02).all()
    # And it is a mixture: the share of each mode, told apart by the line halfway between the means.
    share = (x_0 @ torch.tensor([2.5, -1.0], dtype=torch.float64) < -0.625).double().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / count) ** 0.5 + 0.01


# ---- the contract ----------------------------------------------------------------------------------------------------

def sine_denoiser(schedule):
    """A denoiser for any dtype whose x_0-hat and eps-hat are ordinary numbers."""

    def denoise(x_t, t):
        x_0 = torch.sin(2 * x_t)
        return Prediction(x_0, process.eps_from_x_0(schedule, x_t, x_0, t), torch.full_like(x_t, 0.5))

    return denoise


@pytest.mark.parametrize("t", [0, 400, 999])
@pytest.mark.parametrize("sampler, options", ALL)
def test_one_step_gives_x_0_hat_to_the_last_bit_and_draws_no_noise(schedule, sampler, options, t):
    def no_noise(x):
        raise AssertionError("the last step draws no noise")

    x_T, denoiser = torch.randn(3, 2), sine_denoiser(schedule)
    x_0 = SAMPLERS[sampler](denoiser, x_T, torch.tensor([t]), schedule, noise=no_noise, **options)
    assert torch.equal(x_0, denoiser(x_T, torch.full((3,), t)).x_0)


@pytest.mark.parametrize("sampler, options", ALL)
def test_callback_sees_every_step_and_inputs_stay_as_they_are(schedule, sampler, options):
    x_T, timesteps, seen = torch.randn(3, 2), schedule.timesteps(4), []
    x_T_before, denoiser = x_T.clone(), sine_denoiser(schedule)

    def callback(i, n, x_t, prediction):
        expected = denoiser(x_t, torch.full((3,), timesteps[i].item()))
        assert torch.equal(prediction.x_0, expected.x_0)
        seen.append((i, n))

    x_0 = SAMPLERS[sampler](
        denoiser, x_T, timesteps, schedule, noise=torch.randn_like, callback=callback, **options
    )
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert torch.equal(x_T, x_T_before) and x_0.shape == x_T.shape and x_0.dtype == torch.float32


def test_ddim_inverse_counts_upwards_and_keeps_its_input(schedule):
    x_0, seen = torch.randn(3, 2), []
    before = x_0.clone()
    callback = lambda i, n, x_t, prediction: seen.append((i, n))  # noqa: E731
    ddim_inverse(sine_denoiser(schedule), x_0, schedule.timesteps(3), schedule, callback=callback)
    assert seen == [(0, 3), (1, 3), (2, 3)] and torch.equal(x_0, before)


def test_samplers_keep_no_graph(schedule):
    weight = torch.ones(1, requires_grad=True)
    denoiser = lambda x_t, t: Prediction(x_t * weight, x_t * weight)  # noqa: E731
    for sampler in SAMPLERS.values():
        x_0 = sampler(denoiser, torch.ones(1, 1), schedule.timesteps(2), schedule, noise=torch.randn_like)
        assert not x_0.requires_grad


@pytest.mark.parametrize("sampler, options", ALL)
def test_samplers_stay_on_the_device_of_the_data(schedule, sampler, options):
    """The meta device stands in for a GPU: it too refuses to mix with the CPU."""
    noise = SeededNoise([1, 2], device="meta")
    network = lambda x, t, c: torch.cat([x + c, x], dim=1)  # noqa: E731
    denoiser = Denoiser(network, schedule, "v", learned_variance=True)
    c = torch.zeros(2, 1, 1, device="meta")
    denoiser = thresholded(guided(denoiser, {"c": c}, {"c": c}, 3.0), schedule, dynamic=0.9)
    x_0 = SAMPLERS[sampler](denoiser, noise((2, 3, 4)), schedule.timesteps(3), schedule, noise=noise, **options)
    assert x_0.device.type == "meta" and x_0.dtype == torch.float32


def test_errors_name_what_is_wrong(schedule):
    x, denoiser = torch.randn(3, 2), sine_denoiser(schedule)
    for bad in ([], [5, 5], [5, 9], [5, -1]):
        for sampler in SAMPLERS.values():
            with pytest.raises(ValueError, match="strictly decreasing"):
                sampler(denoiser, x, torch.tensor(bad, dtype=torch.long), schedule, noise=torch.randn_like)
    timesteps = schedule.timesteps(3)
    with pytest.raises(ValueError, match="fixed_small, fixed_large, learned_range"):
        ddpm(denoiser, x, timesteps, schedule, torch.randn_like, variance="learned")
    with pytest.raises(ValueError, match="learned variance"):
        plain = lambda x_t, t: Prediction(x_t, x_t)  # noqa: E731
        ddpm(plain, x, timesteps, schedule, torch.randn_like, variance="learned_range")
    with pytest.raises(ValueError, match="needs noise"):
        ddim(denoiser, x, timesteps, schedule, eta=0.5)
    with pytest.raises(ValueError, match="needs noise"):
        dpm_solver_pp(denoiser, x, timesteps, schedule, stochastic=True)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ddim(denoiser, x, timesteps, schedule, noise=torch.randn_like, eta=1.5)
