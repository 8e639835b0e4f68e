import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from unclip.diffusion import Denoiser, draw_timesteps, process, training_loss
from unclip.diffusion.losses import discretised_log_likelihood, loss_weight

PREDICTIONS = ("eps", "x_0", "v")
T_ALL = torch.tensor([0, 1, 2, 500, 990])


@pytest.fixture
def batch(generator):
    """8-bit x_0 in [-1, 1] with both ends present, eps, x_0-hat and var_frac: (5, 2, 3), float64."""
    x_0 = torch.randint(0, 256, (5, 2, 3), generator=generator).double() / 127.5 - 1
    x_0[0, 0, 0], x_0[0, 0, 1] = -1, 1
    eps, error = (torch.randn(x_0.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    var_frac = torch.rand(x_0.shape, generator=generator, dtype=torch.float64)
    return x_0, eps, x_0 + 0.01 * error, var_frac


def network_that_says(schedule, prediction, x_0_hat, var_frac=None):
    """The raw output that means x_0-hat, written out from the definitions."""

    def network(x_t, t):
        a, s = schedule.alpha_bar[t].sqrt()[:, None, None], (1 - schedule.alpha_bar[t]).sqrt()[:, None, None]
        eps_hat = (x_t - a * x_0_hat) / s
        output = {"eps": eps_hat, "x_0": x_0_hat, "v": a * eps_hat - s * x_0_hat}[prediction]
        return output if var_frac is None else torch.cat([output, 2 * var_frac - 1], dim=1)

    return network


def loss_of(schedule, prediction, batch, t=T_ALL, learned=False, **options):
    x_0, eps, x_0_hat, var_frac = batch
    network = network_that_says(schedule, prediction, x_0_hat, var_frac if learned else None)
    return training_loss(Denoiser(network, schedule, prediction, learned), x_0, t, eps, **options)


def test_simple_loss_is_the_squared_error_of_what_the_network_predicts(schedule, batch):
    x_0, eps, x_0_hat, _ = batch
    snr = schedule.alpha_bar[T_ALL] / (1 - schedule.alpha_bar[T_ALL])
    of_x_0 = ((x_0 - x_0_hat) ** 2).mean((1, 2))
    # eps - eps-hat = sqrt(SNR) (x_0-hat - x_0), and v - v-hat = sqrt(SNR + 1) times it.
    for prediction, factor in [("eps", snr), ("x_0", torch.ones(5)), ("v", snr + 1)]:
        found = loss_of(schedule, prediction, batch)
        torch.testing.assert_close(found, factor * of_x_0, rtol=1e-8, atol=0)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_one_loss_for_every_prediction(schedule, batch, gamma):
    x_0, _, x_0_hat, _ = batch
    snr = schedule.alpha_bar[T_ALL] / (1 - schedule.alpha_bar[T_ALL])
    expected = snr.clamp(max=gamma) * ((x_0 - x_0_hat) ** 2).mean((1, 2))
    for prediction in PREDICTIONS:
        found = loss_of(schedule, prediction, batch, weighting="min_snr", gamma=gamma)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_min_snr_weights_are_those_of_the_paper(schedule):
    t = torch.arange(1000)
    snr, ceiling = process.snr(schedule, t), torch.tensor(5.0, dtype=torch.float64)
    weight = {p: loss_weight(schedule, t, p, "min_snr") for p in PREDICTIONS}
    torch.testing.assert_close(weight["x_0"], torch.minimum(snr, ceiling))
    torch.testing.assert_close(weight["eps"], torch.minimum(torch.ones_like(snr), ceiling / snr))
    torch.testing.assert_close(weight["v"], torch.minimum(snr, ceiling) / (snr + 1))


def slow_vlb_bits(schedule, x_0, x_0_hat, var_frac, x_t, t):
    """One number of one picture, from torch.distributions."""
    beta, alpha_bar, alpha_bar_prev = schedule.beta[t], schedule.alpha_bar[t], schedule.alpha_bar_prev[t]

    def beta_tilde(t):
        return (1 - schedule.alpha_bar_prev[t]) / (1 - schedule.alpha_bar[t]) * schedule.beta[t]

    def mean(x):
        return (alpha_bar_prev.sqrt() * beta * x + (1 - beta).sqrt() * (1 - alpha_bar_prev) * x_t) / (1 - alpha_bar)

    std = (0.5 * (var_frac * beta.log() + (1 - var_frac) * beta_tilde(max(t, 1)).log())).exp()
    p = Normal(mean(x_0_hat), std)
    if t > 0:
        return kl_divergence(Normal(mean(x_0), beta_tilde(t).sqrt()), p) / math.log(2)
    upper = p.cdf(x_0 + 1 / 255) if x_0 < 0.999 else 1
    lower = p.cdf(x_0 - 1 / 255) if x_0 > -0.999 else 0
    return -(upper - lower).log() / math.log(2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_l_vlb_is_the_kl_of_the_same_x_0_hat_whatever_is_predicted(schedule, batch, prediction):
    x_0, eps, x_0_hat, var_frac = batch
    expected = []
    for i, t in enumerate(T_ALL.tolist()):
        x_t = schedule.alpha_bar[t].sqrt() * x_0[i] + (1 - schedule.alpha_bar[t]).sqrt() * eps[i]
        numbers = zip(*(a.flatten() for a in (x_0[i], x_0_hat[i], var_frac[i], x_t)))
        bits = [slow_vlb_bits(schedule, *four, t) for four in numbers]
        expected.append(sum(bits) / len(bits))
    simple = loss_of(schedule, prediction, batch, learned=True)
    hybrid = loss_of(schedule, prediction, batch, learned=True, vlb_weight=0.5)
    found = (hybrid - simple) / (0.5 * schedule.num_timesteps)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_l_vlb_teaches_the_variance_and_not_the_mean(schedule, batch, prediction):
    x_0, eps, x_0_hat, var_frac = batch

    def gradients(vlb_weight):
        mean = network_that_says(schedule, prediction, x_0_hat)(process.q_sample(schedule, x_0, T_ALL, eps), T_ALL)
        mean.requires_grad_()
        raw_variance = (2 * var_frac - 1).requires_grad_()
        network = lambda x_t, t: torch.cat([mean, raw_variance], dim=1)  # noqa: E731
        denoiser = Denoiser(network, schedule, prediction, learned_variance=True)
        training_loss(denoiser, x_0, T_ALL, eps, vlb_weight=vlb_weight).sum().backward()
        return mean.grad, raw_variance.grad

    mean_simple, variance_simple = gradients(0.0)
    mean_hybrid, variance_hybrid = gradients(0.001)
    assert torch.equal(mean_hybrid, mean_simple)
    assert (variance_simple == 0).all()
    assert (variance_hybrid != 0).all() and variance_hybrid.isfinite().all()


def test_discretised_likelihoods_of_all_256_levels_sum_to_1():
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean in (-1.3, 0.0, 0.61, 2.0):
        for std in (1e-3, 0.05, 1.0):
            log_p = discretised_log_likelihood(levels, torch.tensor(mean), torch.tensor(std).log() * 2)
            assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_discretised_likelihood_keeps_its_digits_in_both_tails_in_float32():
    mean, log_variance = torch.tensor(0.0), torch.tensor(0.1).log() * 2
    x_0 = torch.tensor([100, 80]) / 127.5
    in_float64 = discretised_log_likelihood(-x_0.double(), mean.double(), log_variance.double())
    for sign in (-1, 1):
        found = discretised_log_likelihood(sign * x_0, mean, log_variance)
        torch.testing.assert_close(found.double(), in_float64, rtol=1e-4, atol=0)


def test_loss_is_one_finite_number_a_sample_with_a_bfloat16_network(schedule):
    x_0, eps = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    t = torch.tensor([0, 1, 500, 999])
    before = x_0.clone(), eps.clone()
    for prediction in PREDICTIONS:
        network = lambda x, t: torch.cat([x, x * 0], dim=1).bfloat16()  # noqa: E731
        denoiser = Denoiser(network, schedule, prediction, learned_variance=True)
        loss = training_loss(denoiser, x_0, t, eps, weighting="min_snr", vlb_weight=0.001)
        assert loss.shape == (4,) and loss.dtype == torch.float32 and loss.isfinite().all()
    assert torch.equal(x_0, before[0]) and torch.equal(eps, before[1])


def test_loss_stays_on_the_device_of_the_data(schedule):
    """The meta device stands in for a GPU: it too refuses to mix with the CPU."""
    x = torch.zeros(2, 3, 4, device="meta")
    t = draw_timesteps(2, 1000, device="meta")
    denoiser = Denoiser(lambda x, t: torch.cat([x, x], dim=1), schedule, "v", learned_variance=True)
    assert training_loss(denoiser, x, t, x, weighting="min_snr", vlb_weight=0.001).device.type == "meta"


def test_conditioning_goes_to_the_network(schedule):
    x_0, eps, t = torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([3, 700])
    denoiser = Denoiser(lambda x, t, shift: x * 0 + shift, schedule)
    assert training_loss(denoiser, x_0, t, eps, shift=2.0).tolist() == [4.0, 4.0]


def test_errors_name_the_option(schedule, batch):
    with pytest.raises(ValueError, match="simple, min_snr"):
        loss_of(schedule, "eps", batch, weighting="minsnr")
    with pytest.raises(ValueError, match="learned variance"):
        loss_of(schedule, "eps", batch, vlb_weight=0.001)


def test_timesteps_are_spread_evenly_and_each_is_uniform(generator):
    draws = torch.stack([draw_timesteps(8, 16, generator) for _ in range(4000)])                           # (4000, 8)
    # Two timesteps a stratum: every batch has exactly one t in each pair (0, 1), (2, 3), ...
    assert (draws.sort(1).values // 2 == torch.arange(8)).all()
    for place in range(8):
        share = torch.bincount(draws[:, place], minlength=16) / 4000
        assert len(share) == 16 and (share - 1 / 16).abs().max() < 0.02  # standard error 0.004


def test_logit_normal_timesteps_have_its_quantiles(generator):
    t = torch.cat([draw_timesteps(64, 1000, generator, density="logit_normal") for _ in range(500)])
    assert t.min() >= 0 and t.max() < 1000
    for z, share in ((-1.0, 0.158655), (-0.5, 0.308538), (0.0, 0.5), (1.0, 0.841345), (2.0, 0.977250)):
        assert abs((t < 1000 / (1 + math.exp(-z))).double().mean() - share) < 0.002  # t is whole: up to 0.0016 of the density


def test_timesteps_of_an_unknown_density_are_refused():
    with pytest.raises(ValueError, match="uniform, logit_normal"):
        draw_timesteps(4, 1000, density="lognormal")


def test_timesteps_follow_the_generator():
    draw = lambda seed: draw_timesteps(5, 1000, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))
    assert draw(3).dtype == torch.long
