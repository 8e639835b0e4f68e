"""What is counted on meta tensors is what is there with numbers, and what can be worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from conftest import CONVOLUTIONS, TEXT_WIDTH, TRANSFORMER, UNET, D
from torch import nn

from unclip.bare import bare
from unclip.decoder import Decoder
from unclip.networks import attention
from unclip.plan.gpu import AsOnGPU
from unclip.plan.kept import Kept
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler


def kept_by(model, forward):
    with Kept(model) as kept:
        out = forward()
    assert out.requires_grad
    return kept.bytes


def test_every_storage_once_and_no_weights():
    """A linear layer keeps its input for its weight, and the weight for its input."""
    linear, x = nn.Linear(8, 16), torch.randn(5, 8, requires_grad=True)
    assert kept_by(linear, lambda: linear(x)) == 4 * 5 * 8
    assert kept_by(linear, lambda: linear(x) + linear(x[:2]).sum()) == 4 * 5 * 8
    assert kept_by(linear, lambda: linear(x).exp()) == 4 * 5 * 8 + 4 * 5 * 16


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("make, keys", [
    (lambda: Upsampler(unet=CONVOLUTIONS, image_size=8, scale=2), ["image"]),
    (lambda: Upsampler(unet={**CONVOLUTIONS, "channels": 32, "norm": "group"}, image_size=8, scale=4, max_noise=0.0,
                       max_blur=0.0), ["image"]),
    (lambda: Decoder(unet={**UNET, "attention_levels": [], "middle_attention": False}, image_size=8, embed_dim=D,
                     image_tokens=0), ["image", "image_embed"]),
    (lambda: DiffusionPrior(embed_dim=D, transformer=TRANSFORMER), None),
    (lambda: Decoder(unet=UNET, image_size=8, embed_dim=D, text_dim=TEXT_WIDTH), None),
])  # fmt: skip
def test_as_many_bytes_on_meta_as_on_a_processor(monkeypatch, batch, make, keys, checkpointed):
    """In float32, with attention as it is there by default: where it has a mask, by plain operations."""
    monkeypatch.setattr(attention, "attend", plain_attention)
    monkeypatch.setattr("unclip.networks.prior_transformer.attend", plain_attention)
    batch = {key: value for key, value in batch.items() if keys is None or key in keys}
    there = make()
    with bare():
        on_meta = make()
    found = []
    for model, data in ((there, batch), (on_meta, {key: value.to("meta") for key, value in batch.items()})):
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = checkpointed
        found.append(kept_by(model, lambda: model.loss(data)[0].mean()))
    assert found[0] == found[1] > 0


def plain_attention(q, k, v, mask=None):
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    return (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(dim=-1) @ v


def test_half_precision_is_that_of_autocast():
    """On a processor autocast casts as on CUDA what is cast here: linear layers and convolutions, each weight once."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 6), nn.SiLU(), nn.Linear(6, 6))
    x = torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = kept_by(net, lambda: net(x))
    net.to("meta")
    with AsOnGPU(torch.bfloat16) as gpu:
        assert kept_by(net, lambda: net(x.to("meta"))) == expected
    assert sum(cast.nbytes for cast in gpu.casts.values()) == 2 * sum(p.numel() for p in net.parameters())


def test_norms_are_in_float32_and_attention_keeps_no_scores():
    x = torch.empty(2, 4, 64, 16, device="meta", dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(2, 1, 1, 64, device="meta", dtype=torch.bool)
    with AsOnGPU(torch.bfloat16):
        assert F.layer_norm(x, (16,)).dtype == torch.float32
        with Kept(nn.Identity()) as kept:
            assert F.scaled_dot_product_attention(x, x, x, attn_mask=mask).shape == x.shape
    scores = 2 * 2 * 4 * 64 * 64
    assert 2 * x.nbytes < kept.bytes < 2 * x.nbytes + scores  # what goes in, what comes out, a number a row, the mask


def test_a_weight_is_cast_once_and_a_function_stays_in_the_mode():
    linear = nn.Linear(4, 4, device="meta")
    x = torch.empty(3, 4, device="meta")
    gpu = AsOnGPU(torch.float16)
    again = gpu.over(lambda y: linear(linear(y)))
    assert again(x).dtype == torch.float16 and len(gpu.casts) == 2
    assert linear(x).dtype == torch.float32
