"""The U-Net against diffusers' two, in the configurations of the released Karlo weights, small."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from unclip.networks import UNet

from .randomness import erase, randomise

WIDTHS = (32, 64, 96, 128)


def copy(theirs, ours):
    ours.load_state_dict(theirs.state_dict())


def copy_block(theirs, ours):
    for name, our_name in [("norm1", "norm_1"), ("conv1", "conv_1"), ("time_emb_proj", "embed"), ("norm2", "norm_2"),
                           ("conv2", "conv_2")]:
        copy(getattr(theirs, name), getattr(ours, our_name))
    if theirs.conv_shortcut is not None:
        copy(theirs.conv_shortcut, ours.skip)


def copy_attention(theirs, ours):
    copy(theirs.group_norm, ours.norm)
    copy(theirs.to_out[0], ours.proj_out)
    for joined, parts in [(ours.qkv, [theirs.to_q, theirs.to_k, theirs.to_v]),
                          (ours.context_kv, [theirs.add_k_proj, theirs.add_v_proj])]:
        joined.load_state_dict({key: torch.cat([part.state_dict()[key] for part in parts])
                                for key in ("weight", "bias")})


def copy_layers(theirs, ours):
    """One of their blocks: residual blocks, attentions or none, a resampling block or none, in the order they run."""
    attentions = list(getattr(theirs, "attentions", []))
    resampling = list(getattr(theirs, "downsamplers", None) or getattr(theirs, "upsamplers", None) or [])
    for resnet, layer in zip(list(theirs.resnets) + resampling, ours, strict=True):
        copy_block(resnet, layer.block)
        if layer.attention is not None:
            copy_attention(attentions.pop(0), layer.attention)
    assert not [attention for attention in attentions if attention is not None]


def copy_unet(theirs, ours, num_res_blocks):
    for name, our_name in [("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out"),
                           ("time_embedding", "time_embed")]:
        copy(getattr(theirs, name), getattr(ours, our_name))
    for level, block in enumerate(theirs.down_blocks):
        start = level * (num_res_blocks + 1)
        copy_layers(block, ours.down[start:start + num_res_blocks + 1])
    copy_layers(theirs.mid_block, ours.middle)
    for level, block in enumerate(theirs.up_blocks):
        copy_layers(block, list(ours.up[level]) + list(ours.upsample[level:level + 1]))


def difference(ours, theirs):
    assert theirs.std() > 0.1
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("num_res_blocks", [1, 3])
def test_the_decoder_equals_that_of_diffusers(num_res_blocks):
    cross = ["SimpleCrossAttn{}Block2D"] * 3
    theirs = randomise(UNet2DConditionModel(
        in_channels=3, out_channels=6, block_out_channels=WIDTHS, layers_per_block=num_res_blocks,
        down_block_types=["ResnetDownsampleBlock2D", *(name.format("Down") for name in cross)],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=[*(name.format("Up") for name in cross), "ResnetUpsampleBlock2D"],
        attention_head_dim=16, cross_attention_dim=24, class_embed_type="identity",
        resnet_time_scale_shift="scale_shift"))
    ours = erase(UNet(in_channels=3, out_channels=6, channels=32, multipliers=[1, 2, 3, 4],
                      num_res_blocks=num_res_blocks, attention_levels=[1, 2, 3], middle_attention=True, head_dim=16,
                      context_dim=24))
    copy_unet(theirs, ours, num_res_blocks)

    x, t, emb = torch.randn(2, 3, 16, 16), torch.tensor([5, 800]), torch.randn(2, ours.time_embed_dim)
    context = torch.randn(2, 7, 24)     # not as many as pixels at any level, 64, 16 or 4: there diffusers crashes
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad():
        expected = theirs(x, t, context, class_labels=emb, attention_mask=mask).sample
        assert difference(ours(x, t, emb, context, mask), expected) < 1e-5


def test_the_upsampler_equals_that_of_diffusers():
    theirs = randomise(UNet2DModel(
        in_channels=6, out_channels=3, block_out_channels=WIDTHS, layers_per_block=2,
        down_block_types=["ResnetDownsampleBlock2D"] * 4, up_block_types=["ResnetUpsampleBlock2D"] * 4,
        add_attention=False))
    ours = erase(UNet(in_channels=6, out_channels=3, channels=32, multipliers=[1, 2, 3, 4], num_res_blocks=2,
                      attention_levels=[], middle_attention=False, scale_shift=False))
    copy_unet(theirs, ours, 2)
    x, t = torch.randn(2, 6, 16, 16), torch.tensor([5, 800])
    with torch.no_grad():
        assert difference(ours(x, t), theirs(x, t).sample) < 1e-5
