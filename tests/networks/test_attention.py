import pytest
import torch

from unclip.networks import attention
from unclip.networks.attention import AttentionBlock, attend, split_heads

from .randomness import randomise


class Reading(AttentionBlock):
    """The block, with the context as it comes."""

    def forward(self, x, context, mask=None):
        return super().forward(x, self.read(context), mask)


def block(context_dim=None, **changed):
    settings = dict(channels=32, head_dim=8, context_dim=context_dim, norm="layer")
    return Reading(**{**settings, **changed})


@pytest.mark.parametrize("masked", [False, True])
def test_attend_equals_the_fused_kernel(masked, monkeypatch):
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.rand(2, 1, 5, 7) < 0.5
    mask[..., 0] = True
    mask = mask if masked else None
    plain = attend(q, k, v, mask)
    monkeypatch.setattr(attention, "PLAIN_ON_CPU", 0)
    torch.testing.assert_close(attend(q, k, v, mask), plain, rtol=0, atol=1e-6)


def test_attend_equals_a_loop():
    q, k, v = torch.randn(3, 1, 2, 4, 8, dtype=torch.float64)
    out = attend(q, k, v)
    for head in range(2):
        for row in range(4):
            weights = torch.stack([(q[0, head, row] @ k[0, head, column] / 8 ** 0.5).exp() for column in range(4)])
            torch.testing.assert_close(out[0, head, row], weights @ v[0, head] / weights.sum())


def test_split_heads_goes_part_by_part():
    x = torch.arange(12.0).view(1, 1, 12)                      # two parts of two heads of three
    q, k = split_heads(x, 2, 2)
    assert q.flatten().tolist() == [0, 1, 2, 3, 4, 5] and k.flatten().tolist() == [6, 7, 8, 9, 10, 11]
    assert q.shape == (1, 2, 1, 3)


def test_starts_as_the_identity():
    x, context = torch.randn(2, 32, 4, 4), torch.randn(2, 3, 6)
    assert torch.equal(block(6)(x, context), x)
    assert not torch.allclose(randomise(block(6))(x, context), x)


def test_a_masked_token_is_as_good_as_absent():
    net = randomise(block(6))
    x, context = torch.randn(2, 32, 4, 4), torch.randn(2, 3, 6)
    mask = torch.tensor([[True, True, False]] * 2)
    torch.testing.assert_close(net(x, context, mask), net(x, context[:, :2]), rtol=0, atol=1e-6)
    assert not torch.allclose(net(x, context, mask), net(x, context), atol=1e-4)


def test_all_context_masked_is_self_attention_alone():
    net = randomise(block(6))
    x, context = torch.randn(2, 32, 4, 4), torch.randn(2, 3, 6)
    out = net(x, context, torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(out, net(x, context[:, :0]), rtol=0, atol=1e-6)


def test_context_order_does_not_matter():
    net = randomise(block(6))
    x, context = torch.randn(2, 32, 4, 4), torch.randn(2, 3, 6)
    torch.testing.assert_close(net(x, context), net(x, context.flip(1)), rtol=0, atol=1e-5)


def test_head_dim_must_divide_the_channels():
    with pytest.raises(ValueError, match="head_dim=12 does not divide the 32 channels"):
        block(head_dim=12)
