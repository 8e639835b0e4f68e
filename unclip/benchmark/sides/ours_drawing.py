"""A decoder drawing made-up embeddings, for the measurement of how it scales."""

import torch

from unclip.decoder import Decoder
from unclip.diffusion import SeededNoise


def build(folder, batch, steps, size, threads):
    """folder: of the decoder; size: side of the pictures; None: the decoder's own."""
    torch.set_num_threads(threads)
    decoder = Decoder.from_pretrained(folder).to(memory_format=torch.channels_last)
    decoder.image_size = size or decoder.image_size
    embeds = torch.randn(batch, len(decoder.null_image))

    def draw():
        decoder.sample(embeds, noise=SeededNoise(range(batch)), num_inference_steps=steps, guidance_scale=2.0, sampler="dpm++")

    return draw, sum(p.numel() for p in decoder.parameters())
