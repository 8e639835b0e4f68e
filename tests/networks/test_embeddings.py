import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from unclip.networks.embeddings import TimeEmbedding, sinusoidal


def test_cosines_come_first():
    at_zero = sinusoidal(torch.tensor([0]), 6)
    assert torch.equal(at_zero, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]))
    first_frequency_is_one = sinusoidal(torch.tensor([2]), 6)
    torch.testing.assert_close(first_frequency_is_one[0, [0, 3]], torch.tensor([2.0, 2.0]).cos().lerp(
        torch.tensor([2.0, 2.0]).sin(), torch.tensor([0.0, 1.0])))


def test_sinusoids_equal_those_of_diffusers():
    t = torch.tensor([0, 1, 250, 999])
    theirs = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoidal(t, 32), theirs, rtol=0, atol=1e-6)


def test_every_step_has_its_own_vector():
    distances = torch.pdist(sinusoidal(torch.arange(1000), 64))
    assert distances.min() > 0.1


def test_odd_width_raises():
    with pytest.raises(ValueError, match="channels=7 is odd"):
        TimeEmbedding(channels=7, width=8)
