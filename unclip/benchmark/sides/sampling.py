"""What both sides of the sampling comparison draw: parts of Karlo's shape, smaller, and made-up captions."""

import torch

from unclip.conditioning import on
from unclip.decoder import Decoder
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

from unclip.benchmark.sides.texts import made_up

DIM, LENGTH, TOKENS = 768, 77, 14  # of CLIP ViT-L/14, and of a caption of a dozen words
PRIOR_STEPS, DECODER_STEPS, UPSAMPLER_STEPS = 25, 25, 7  # Karlo's
PRIOR_GUIDANCE, DECODER_GUIDANCE = 4.0, 8.0


def parts():
    """(prior, decoder, upsampler): Karlo's with a fraction of its width, layers and blocks."""
    torch.manual_seed(0)
    prior = DiffusionPrior(
        embed_dim=DIM, transformer={"text_dim": DIM, "text_length": LENGTH, "width": 768, "layers": 6, "heads": 12},
        clamp=5.0, spacing="linspace",
    )  # fmt: skip
    levels = {"multipliers": [1, 2, 3, 4], "num_res_blocks": 2, "norm": "group"}
    decoder = Decoder(
        unet={**levels, "channels": 64, "attention_levels": [1, 2, 3], "middle_attention": True, "head_dim": 32,
              "context_dim": 384},
        image_size=64, embed_dim=DIM, text_dim=DIM, prediction="eps", learned_variance=True, vlb_weight=0.001,
        spacing="linspace",
    )  # fmt: skip
    upsampler = Upsampler(
        unet={**levels, "channels": 32, "scale_shift": False}, image_size=256, scale=4, max_noise=0, prediction="eps",
        spacing="linspace",
    )  # fmt: skip
    for part in (prior, decoder, upsampler):
        with torch.no_grad():  # of what begins as zero, too: no branch may be idle
            for p in part.parameters():
                if not p.any():
                    p.normal_(std=0.01)
    return prior.eval(), decoder.eval(), upsampler.eval()


def captions(batch, device):
    """Text keys of `batch` captions, and of the empty one, the same on every device."""
    generator = torch.Generator().manual_seed(1)
    return [on(made_up(rows, tokens, DIM, LENGTH, generator), device) for rows, tokens in ((batch, TOKENS), (1, 2))]
