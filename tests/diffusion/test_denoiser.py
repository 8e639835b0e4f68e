import pytest
import torch

from unclip.diffusion import Denoiser, process

PREDICTIONS = ("eps", "x_0", "v")


@pytest.fixture
def sample(schedule, generator):
    """x_0, eps, t and x_t of shapes (3, 2, 4), in float64."""
    x_0, eps = (torch.randn(3, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 500, 990])
    return x_0, eps, t, process.q_sample(schedule, x_0, t, eps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_hits_its_target_gives_back_x_0_and_eps(schedule, sample, prediction):
    x_0, eps, t, x_t = sample
    denoiser = Denoiser(lambda x, t: denoiser.target(x_0, eps, t), schedule, prediction)
    found = denoiser(x_t, t)
    torch.testing.assert_close(found.x_0, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.eps, eps, rtol=1e-9, atol=1e-9)
    assert found.var_frac is None


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x_0_and_eps_agree_at_x_t(schedule, sample, prediction):
    *_, t, x_t = sample
    found = Denoiser(lambda x, t: torch.sin(3 * x), schedule, prediction)(x_t, t)
    torch.testing.assert_close(process.q_sample(schedule, found.x_0, t, found.eps), x_t, rtol=1e-9, atol=1e-9)


def test_learned_variance_is_the_second_half_of_the_channels(schedule, sample):
    *_, t, x_t = sample
    raw = torch.cat([x_t, torch.full_like(x_t, -1.0)], dim=1)
    raw[0, 2:] = 1
    found = Denoiser(lambda x, t: raw, schedule, learned_variance=True)(x_t, t)
    assert torch.equal(found.eps, x_t)
    assert (found.var_frac[0] == 1).all() and (found.var_frac[1:] == 0).all()


@pytest.mark.parametrize("network_dtype", [torch.bfloat16, torch.float32])
def test_the_mathematics_is_float32_whatever_the_network_runs_in(schedule, sample, network_dtype):
    *_, t, x_t = sample
    for dtype in (torch.bfloat16, torch.float32):
        found = Denoiser(lambda x, t: x.to(network_dtype), schedule, "v")(x_t.to(dtype), t)
        assert found.x_0.dtype == found.eps.dtype == torch.float32
    found = Denoiser(lambda x, t: x.to(network_dtype), schedule, "v")(x_t, t)
    assert found.x_0.dtype == found.eps.dtype == torch.float64


def test_conditioning_reaches_the_network_and_nothing_else_does(schedule, sample):
    *_, t, x_t = sample
    seen = {}

    def network(x_t, t, caption):
        seen.update(x_t=x_t, t=t, caption=caption)
        return x_t

    denoiser = Denoiser(network, schedule)
    denoiser(x_t, t, caption="a corgi")
    assert seen["x_t"] is x_t and seen["t"] is t and seen["caption"] == "a corgi"
    with pytest.raises(TypeError, match="capton"):
        denoiser(x_t, t, capton="a corgi")


def test_a_wrong_number_of_channels_is_an_error_not_a_broadcast(schedule, sample):
    *_, t, x_t = sample
    with pytest.raises(ValueError, match="4 channels were expected"):
        Denoiser(lambda x, t: x, schedule, learned_variance=True)(x_t, t)
    with pytest.raises(ValueError, match="2 channels were expected"):
        Denoiser(lambda x, t: x[:, :1], schedule)(x_t, t)


def test_an_unknown_prediction_is_named(schedule):
    with pytest.raises(ValueError, match="eps, x_0, v"):
        Denoiser(lambda x, t: x, schedule, "epsilon")
