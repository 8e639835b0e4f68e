import pytest
import torch

from unclip.diffusion import process

PAIRS = [(0, -1), (1, 0), (999, 998), (500, 250), (999, 0), (40, -1), (999, -1)]


@pytest.fixture
def xs(generator):
    """Three (B, 2, 3) tensors in float64."""
    return [torch.randn(4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_single_steps_compose_to_the_jump(schedule):
    """x_t is linear in x_0 and in each step's noise, so steps give its mean and variance with no Monte Carlo."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    scale, variance = one, zero
    for t in range(1000):
        scale = process.q_step(schedule, scale, t, zero)
        of_noise = process.q_step(schedule, zero, t, one)
        variance = process.q_step(schedule, variance.sqrt(), t, zero) ** 2 + of_noise**2
        torch.testing.assert_close(process.q_sample(schedule, one, t, zero), scale, rtol=1e-10, atol=0)
        torch.testing.assert_close(process.q_sample(schedule, zero, t, one) ** 2, variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("t, t_prev", [(1, 0), (500, 250), (999, 0)])
def test_a_skipping_step_is_its_single_steps(schedule, t, t_prev):
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    scale, variance = one, zero
    for s in range(t_prev + 1, t + 1):
        variance = variance * schedule.alpha[s] + schedule.beta[s]
        scale = scale * schedule.alpha[s].sqrt()
    torch.testing.assert_close(process.q_step(schedule, one, t, zero, t_prev), scale, rtol=1e-10, atol=0)
    torch.testing.assert_close(process.q_step(schedule, zero, t, one, t_prev) ** 2, variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("t, t_prev", [pair for pair in PAIRS if pair[1] >= 0])
def test_posterior_is_bayes_rule(schedule, xs, t, t_prev):
    """q(x_prev | x_t, x_0) ~ q(x_t | x_prev) q(x_prev | x_0): precisions add, and weigh the means."""
    x_0, x_t, _ = xs
    alpha = schedule.alpha[t_prev + 1 : t + 1].prod()
    prior_precision = 1 / (1 - schedule.alpha_bar[t_prev])
    likelihood_precision = alpha / (1 - alpha)
    variance = 1 / (prior_precision + likelihood_precision)
    mean = variance * (
        prior_precision * schedule.alpha_bar[t_prev].sqrt() * x_0 + likelihood_precision * x_t / alpha.sqrt()
    )
    torch.testing.assert_close(process.posterior_variance(schedule, t, t_prev), variance, rtol=1e-9, atol=0)
    torch.testing.assert_close(process.posterior_mean(schedule, x_0, x_t, t, t_prev), mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t, t_prev", PAIRS)
def test_both_forms_of_the_posterior_mean_agree(schedule, xs, t, t_prev):
    x_0, eps, _ = xs
    x_t = process.q_sample(schedule, x_0, t, eps)
    from_x_0 = process.posterior_mean(schedule, x_0, x_t, t, t_prev)
    from_eps = process.posterior_mean_from_eps(schedule, eps, x_t, t, t_prev)
    # x_0 from eps divides by sqrt(alpha_bar), 5e-5 at the cosine's end: 4 of 16 digits go.
    torch.testing.assert_close(from_eps, from_x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0, 17, 999])
def test_the_step_to_clean_data_is_x_0_to_the_last_bit(schedule, t):
    x_0, x_t = torch.randn(2, 5), torch.randn(2, 5)
    assert torch.equal(process.posterior_mean(schedule, x_0, x_t, t, -1), x_0)
    assert process.posterior_variance(schedule, t, -1) == 0


def test_t_prev_is_one_less_unless_given(schedule, xs):
    x_0, x_t, eps = xs
    t = torch.tensor([0, 1, 500, 999])
    for function, arguments in [
        (process.q_step, (x_0, t, eps)),
        (process.posterior_mean, (x_0, x_t, t)),
        (process.posterior_mean_from_eps, (eps, x_t, t)),
        (process.posterior_variance, (t,)),
        (process.learned_log_variance, (x_0, t)),
    ]:
        assert torch.equal(function(schedule, *arguments), function(schedule, *arguments, t - 1))


def test_a_batch_of_timesteps_is_its_rows(schedule, xs):
    x_0, x_t, eps = xs
    t, t_prev = torch.tensor([0, 1, 500, 999]), torch.tensor([-1, 0, 250, 998])
    for function, tensors in [
        (process.q_step, (x_0, t, eps, t_prev)),
        (process.q_sample, (x_0, t, eps)),
        (process.posterior_mean, (x_0, x_t, t, t_prev)),
        (process.posterior_mean_from_eps, (eps, x_t, t, t_prev)),
        (process.learned_log_variance, (x_0, t, t_prev)),
        (process.x_0_from_eps, (x_t, eps, t)),
        (process.eps_from_x_0, (x_t, x_0, t)),
        (process.v_from_x_0_and_eps, (x_0, eps, t)),
        (process.x_0_from_v, (x_t, eps, t)),
        (process.eps_from_v, (x_t, eps, t)),
    ]:
        batch = function(schedule, *tensors)
        for i in range(4):
            row = [a[i].item() if a.ndim == 1 else a[i : i + 1] for a in tensors]
            torch.testing.assert_close(batch[i : i + 1], function(schedule, *row), rtol=1e-14, atol=1e-14)


def test_learned_variance_runs_from_beta_tilde_to_beta(schedule):
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for t, t_prev in [(1, 0), (999, 998), (500, 250)]:
        beta = 1 - schedule.alpha[t_prev + 1 : t + 1].prod()
        beta_tilde = process.posterior_variance(schedule, t, t_prev)
        log_variance = lambda frac: process.learned_log_variance(schedule, frac, t, t_prev)  # noqa: E731
        torch.testing.assert_close(log_variance(one).exp(), beta[None], rtol=1e-9, atol=0)
        torch.testing.assert_close(log_variance(zero).exp(), beta_tilde[None], rtol=1e-9, atol=0)
        torch.testing.assert_close(log_variance(one / 2).exp(), (beta * beta_tilde).sqrt()[None], rtol=1e-9, atol=0)


def test_learned_variance_stays_finite_at_the_last_step(schedule):
    zero = torch.zeros(1, dtype=torch.float64)
    at_0 = process.learned_log_variance(schedule, zero, 0)
    torch.testing.assert_close(at_0.exp()[0], process.posterior_variance(schedule, 1), rtol=1e-12, atol=0)
    assert process.learned_log_variance(schedule, zero, 40, -1).isfinite()


@pytest.mark.parametrize("t", [0, 500, 998])
def test_conversions_round_trip(schedule, xs, t):
    x_0, eps, _ = xs
    x_t = process.q_sample(schedule, x_0, t, eps)
    v = process.v_from_x_0_and_eps(schedule, x_0, eps, t)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)  # noqa: E731
    close(process.x_0_from_eps(schedule, x_t, eps, t), x_0)
    close(process.eps_from_x_0(schedule, x_t, x_0, t), eps)
    close(process.x_0_from_v(schedule, x_t, v, t), x_0)
    close(process.eps_from_v(schedule, x_t, v, t), eps)


def test_v_is_the_derivative_along_the_circle(schedule):
    """With alpha_bar = cos^2 phi, x_t = cos phi x_0 + sin phi eps and v = d x_t / d phi (Salimans & Ho, appendix D)."""
    x_0, eps = torch.tensor([0.3], dtype=torch.float64), torch.tensor([-1.2], dtype=torch.float64)
    phi = schedule.alpha_bar[400].sqrt().acos()
    x = lambda p: p.cos() * x_0 + p.sin() * eps  # noqa: E731
    derivative = (x(phi + 1e-6) - x(phi - 1e-6)) / 2e-6
    torch.testing.assert_close(process.v_from_x_0_and_eps(schedule, x_0, eps, 400), derivative, rtol=1e-8, atol=0)


def test_snr_is_the_ratio_of_signal_to_noise_variance(schedule):
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for t in (0, 500, 999):
        signal, noise = process.q_sample(schedule, one, t, zero) ** 2, process.q_sample(schedule, zero, t, one) ** 2
        torch.testing.assert_close(process.snr(schedule, t)[None], signal / noise, rtol=1e-12, atol=0)


def test_float32_stays_float32_and_inputs_stay_as_they_are(schedule):
    x_0, eps, t = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 500, 999])
    before = x_0.clone(), eps.clone()
    assert process.q_sample(schedule, x_0, t, eps).dtype == torch.float32
    assert process.posterior_mean(schedule, x_0, eps, 10, 3).dtype == torch.float32
    assert process.learned_log_variance(schedule, x_0, t).dtype == torch.float32
    assert torch.equal(x_0, before[0]) and torch.equal(eps, before[1])
