"""Released layouts with small random weights, and the parity table."""

import copy

import pytest
import torch
from networks.randomness import randomise

from unclip.diffusion import Schedule
from unclip.interop.karlo_layout import FILES

from . import karlo_reference as karlo

DIM, LENGTH = 64, 77


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def karlo_parts():
    """Karlo's four networks and its statistics, small."""
    unet = {"channels": 64, "multipliers": (1, 2, 3), "blocks": 2}
    return {
        "prior": randomise(karlo.Prior(DIM, width=128, layers=2, length=LENGTH)),
        "decoder": randomise(karlo.Decoder(DIM, context=96, attention_levels=(1, 2), **unet), std=0.05),
        "first": randomise(karlo.UNet(6, 3, channels=32, multipliers=(1, 2), blocks=1, shift=False)),
        "last": randomise(karlo.UNet(6, 3, channels=32, multipliers=(1, 2), blocks=1, shift=False), std=0.08),
        "statistics": (torch.randn(DIM, generator=torch.Generator().manual_seed(2)), torch.linspace(0.5, 2, DIM)),
    }


@pytest.fixture
def karlo_folder(karlo_parts, tmp_path):
    """A folder as Karlo's own code downloads it."""
    folder = tmp_path / "karlo"
    folder.mkdir()

    def save(file, **parts):
        state = {f"{prefix}.{k}": v for prefix, part in parts.items() for k, v in part.state_dict().items()}
        torch.save({"state_dict": state}, folder / FILES[file])

    save("prior", model=karlo_parts["prior"])
    save("decoder", model=karlo_parts["decoder"])
    save("upsampler", model_first_steps=karlo_parts["first"], model_last_step=karlo_parts["last"])
    torch.save(karlo_parts["statistics"], folder / FILES["statistics"])
    return folder


@pytest.fixture(scope="session")
def diffusers_parts():
    """Karlo's parts as diffusers has them, small."""
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    cross, plain = "SimpleCrossAttn{}Block2D", "Resnet{}sampleBlock2D"
    upsampler = {
        "sample_size": 64, "in_channels": 6, "out_channels": 3, "block_out_channels": (32, 64), "layers_per_block": 1,
        "down_block_types": [plain.format("Down")] * 2, "up_block_types": [plain.format("Up")] * 2, "add_attention": False,
    }  # fmt: skip
    parts = {
        "prior": randomise(PriorTransformer(
            num_attention_heads=2, attention_head_dim=64, num_layers=2, embedding_dim=DIM, num_embeddings=LENGTH,
            additional_embeddings=4,
        )),
        "decoder": randomise(UNet2DConditionModel(
            sample_size=16, in_channels=3, out_channels=6, block_out_channels=(32, 64, 96), layers_per_block=2,
            down_block_types=[plain.format("Down"), cross.format("Down"), cross.format("Down")],
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=[cross.format("Up"), cross.format("Up"), plain.format("Up")],
            attention_head_dim=16, cross_attention_dim=48, class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )),
        "text_proj": randomise(UnCLIPTextProjModel(clip_embeddings_dim=DIM, time_embed_dim=128, cross_attention_dim=48)),
        "super_res_first": randomise(UNet2DModel(**upsampler)),
        "super_res_last": randomise(UNet2DModel(**upsampler), std=0.08),
    }  # fmt: skip
    with torch.no_grad():
        parts["prior"].clip_std.abs_().add_(0.5)
        # A random network is chaos under guidance: 25 steps make 3e-9 of what rounding does in float64, 0.5 in float32.
        # Trained ones are not: they contract.
        parts["decoder"].conv_out.weight.mul_(0.1)
    return parts


@pytest.fixture(scope="session")
def diffusers_schedulers():
    from diffusers import UnCLIPScheduler

    eps = {"prediction_type": "epsilon", "clip_sample_range": 1.0}
    return {
        "prior_scheduler": UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", **eps),
        "super_res_scheduler": UnCLIPScheduler(**eps),
    }


@pytest.fixture
def their_schedulers(diffusers_schedulers):
    """With our tables, in float64. Theirs in float32 scale the last x_0 by 0.99947."""
    schedule, schedulers = Schedule.cosine(), copy.deepcopy(diffusers_schedulers)
    for scheduler in schedulers.values():
        scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = schedule.beta, schedule.alpha, schedule.alpha_bar
    return schedulers


@pytest.fixture
def diffusers_folder(diffusers_parts, diffusers_schedulers, tmp_path):
    """A folder as the hub has it."""
    for name, part in {**diffusers_parts, **diffusers_schedulers}.items():
        part.save_pretrained(tmp_path / "karlo-diffusers" / name)
    return tmp_path / "karlo-diffusers"


@pytest.fixture
def conditions():
    """What networks are told: two noised embeddings, times, and captions of different lengths."""
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [9]])
    return {
        "t": torch.tensor([7, 800]),
        "text": {"text_embed": torch.randn(2, DIM), "text_states": torch.randn(2, LENGTH, DIM), "text_mask": mask},
        "image_embed": torch.randn(2, DIM),
    }


@pytest.fixture
def parity(request):
    """Checks that two tensors are equal within a tolerance, relative to the largest number (at least 1), and notes how nearly.

    Whoever asks for it is marked `parity`.
    """

    def check(part, config, ours, theirs, tolerance):
        assert theirs.std() > 0.05, "an output that says nothing"
        difference = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
        request.config.parity_rows.append((part, config, difference, tolerance))
        assert difference < tolerance

    return check
