"""The released networks at their full size, on the meta device: every key and every shape, and no memory."""

import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

from unclip.decoder import Decoder
from unclip.interop.karlo_layout import FIRST_STEPS, LAST_STEP, MODEL, decoder_of, prior_of, upsampler_of
from unclip.interop.names import DIFFUSERS, condition_rules, prior_rules, statistics_rules, unet_rules
from unclip.interop.tensors import Tensors
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

from . import karlo_reference as karlo

WIDTHS = (320, 640, 960, 1280)
PLAIN, CROSS = "Resnet{}sampleBlock2D", "SimpleCrossAttn{}Block2D"


@pytest.fixture(autouse=True)
def shapes_alone():
    with torch.device("meta"):
        yield


def assert_counterparts(ours, *pairs):
    """Together the rules name every tensor of ours, and of each of theirs, once and in its shape."""
    state = ours.state_dict()
    assert sorted(rule.ours for rules, _ in pairs for rule in rules) == sorted(state)
    for rules, theirs in pairs:
        shapes = {key: tuple(value.shape) for key, value in theirs.items()}
        assert {k: tuple(t.shape) for rule in rules for k, t in zip(rule.theirs, rule.to_theirs(state[rule.ours]))} == shapes


def millions(part):
    return sum(p.numel() for p in part.parameters()) / 1e6


@pytest.mark.parametrize("dim, heads, head_dim, layers, time", [
    (768, 32, 64, 20, True),  # Karlo's
    (1280, 32, 64, 20, True),  # Kandinsky 2.2's
    (1280, 16, 32, 10, False),  # ECLIPSE's
    (768, 16, 32, 10, False),
])  # fmt: skip
def test_priors_of_diffusers(dim, heads, head_dim, layers, time):
    theirs = PriorTransformer(heads, head_dim, layers, dim, additional_embeddings=4 if time else 3).state_dict()
    theirs = {k: v for k, v in theirs.items() if time or not k.startswith("time_embedding")}
    options = {"text_dim": dim, "text_length": 77, "width": heads * head_dim, "layers": layers, "heads": heads, "time_token": time}
    ours = DiffusionPrior(embed_dim=dim, transformer=options)
    assert_counterparts(ours, (prior_rules(ours, DIFFUSERS) + statistics_rules(), theirs))


def test_the_decoder_of_diffusers():
    unet = UNet2DConditionModel(
        sample_size=64, layers_per_block=3, block_out_channels=WIDTHS, in_channels=3, out_channels=6,
        down_block_types=[PLAIN.format("Down"), *[CROSS.format("Down")] * 3], cross_attention_dim=1536,
        up_block_types=[*[CROSS.format("Up")] * 3, PLAIN.format("Up")], attention_head_dim=64,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", class_embed_type="identity", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    text_proj = UnCLIPTextProjModel(time_embed_dim=1280, cross_attention_dim=1536)
    ours = Decoder(
        image_size=64, embed_dim=768, text_dim=768, prediction="eps", learned_variance=True, vlb_weight=0.001,
        unet={"channels": 320, "multipliers": [1, 2, 3, 4], "num_res_blocks": 3, "attention_levels": [1, 2, 3],
              "middle_attention": True, "head_dim": 64, "context_dim": 1536},
    )  # fmt: skip
    assert_counterparts(
        ours,
        (unet_rules(ours.unet, DIFFUSERS), unet.state_dict()),
        (condition_rules(ours, DIFFUSERS), text_proj.state_dict()),
    )


def test_the_upsampler_of_diffusers():
    first, last = (
        UNet2DModel(
            sample_size=256, in_channels=6, out_channels=3, block_out_channels=WIDTHS, layers_per_block=3,
            down_block_types=[PLAIN.format("Down")] * 4, up_block_types=[PLAIN.format("Up")] * 4, add_attention=False,
        ).state_dict()
        for _ in range(2)
    )  # fmt: skip
    unet = {"channels": 320, "multipliers": [1, 2, 3, 4], "num_res_blocks": 3, "scale_shift": False}
    ours = Upsampler(unet=unet, image_size=256, scale=4, max_noise=0.0, last_step=True, prediction="eps")
    assert_counterparts(
        ours, (unet_rules(ours.unet, DIFFUSERS, "unet."), first), (unet_rules(ours.unet_last, DIFFUSERS, "unet_last."), last)
    )


def test_karlos_checkpoints():
    """Their shapes alone tell the networks: what is read of them has the published numbers of parameters."""

    def checkpoint(**networks):
        return Tensors("checkpoint", {f"{at}{k}": v for at, part in networks.items() for k, v in part.state_dict().items()})

    unet = {"channels": 320, "multipliers": (1, 2, 3, 4), "blocks": 3}
    statistics = Tensors("statistics", {"clip_mean": torch.zeros(768), "clip_std": torch.ones(768)})
    prior = prior_of(checkpoint(**{MODEL: karlo.Prior(768, 2048, 20, 77)}), statistics)
    assert millions(prior) == pytest.approx(1020, rel=0.005)
    assert prior.options["transformer"]["heads"] == 32
    decoder = decoder_of(checkpoint(**{MODEL: karlo.Decoder(768, 1536, attention_levels=(1, 2, 3), **unet)}))
    assert millions(decoder) == pytest.approx(893, rel=0.005)
    assert decoder.options["unet"]["attention_levels"] == [1, 2, 3] and decoder.image_tokens == 4
    networks = [karlo.UNet(6, 3, shift=False, **unet) for _ in range(2)]
    upsampler = upsampler_of(checkpoint(**dict(zip((FIRST_STEPS, LAST_STEP), networks))), takes=64)
    assert millions(upsampler) == pytest.approx(2 * 692, rel=0.005)
    assert upsampler.image_size == 256 and upsampler.options["unet"]["scale_shift"] is False
