import pytest
import torch

from unclip.networks.norms import ChannelGroupNorm, ChannelLayerNorm
from unclip.networks.resblock import ResBlock, downsample, upsample

from .randomness import randomise


def block(**changed):
    settings = dict(in_channels=32, out_channels=32, embed_dim=8, norm="layer", scale_shift=True, dropout=0.0)
    return ResBlock(**{**settings, **changed})


@pytest.mark.parametrize("scale_shift", [True, False])
def test_starts_as_the_identity(scale_shift):
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 8)
    assert torch.equal(block(scale_shift=scale_shift)(x, emb), x)
    assert not torch.allclose(randomise(block(scale_shift=scale_shift))(x, emb), x)


@pytest.mark.parametrize("resample, size", [(upsample, 8), (downsample, 2)])
def test_a_resampling_block_starts_as_the_resampling(resample, size):
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 8)
    out = block(resample=resample)(x, emb)
    assert out.shape == (2, 32, size, size)
    assert torch.equal(out, resample(x))


def test_downsampling_undoes_upsampling():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(downsample(upsample(x)), x)


@pytest.mark.parametrize("scale_shift", [True, False])
def test_the_embedding_enters_per_image(scale_shift):
    net = randomise(block(scale_shift=scale_shift))
    x, emb = torch.randn(1, 32, 4, 4).expand(2, -1, -1, -1), torch.randn(2, 8)
    out = net(x, emb)
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    torch.testing.assert_close(net(x, emb.flip(0)), out.flip(0))


def test_scale_and_shift_act_after_the_norm():
    """With the last convolution a centre tap of one, the block is x + silu((1 + scale) * norm + shift)."""
    net = randomise(block())
    with torch.no_grad():
        net.conv_2.bias.zero_()
        torch.nn.init.dirac_(net.conv_2.weight)
        x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 8)
        scale, shift = net.embed(emb)[:, :, None, None].chunk(2, dim=1)
        h = net.norm_2(net.conv_1(torch.nn.functional.silu(net.norm_1(x))))
        expected = x + torch.nn.functional.silu(h * (1 + scale) + shift)
        torch.testing.assert_close(net(x, emb), expected)


def test_dropout_acts_in_training_only():
    net = randomise(block(dropout=0.5))
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 8)
    assert torch.equal(net(x, emb), net(x, emb))
    assert not torch.equal(net.train()(x, emb), net(x, emb))


def test_layer_norm_is_over_the_channels_of_each_pixel():
    x = 5 * torch.randn(2, 16, 3, 4) + 2
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(ChannelLayerNorm(16)(x), expected)


def test_group_norm_needs_whole_groups():
    assert (ChannelGroupNorm(64).num_groups, ChannelGroupNorm(64).eps) == (32, 1e-5)
    with pytest.raises(ValueError, match="divisible by 32, got 48"):
        ChannelGroupNorm(48)
