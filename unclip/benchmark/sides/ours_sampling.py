"""Our side of sampling: prior, decoder and upsampler of a folder, for made-up captions."""

import time

import torch

from unclip.decoder import Decoder
from unclip.diffusion import SeededNoise
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

from unclip.benchmark.sides.sampling import captions


def build(folder, batch, dtype, threads, prior, decoder, upsampler):
    """prior, decoder, upsampler: keywords of their `sample`."""
    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype)
    kinds = {"prior": DiffusionPrior, "decoder": Decoder, "upsampler": Upsampler}
    parts = {name: kind.from_pretrained(f"{folder}/{name}", dtype=dtype) for name, kind in kinds.items()}
    for name in ("decoder", "upsampler"):
        parts[name].to(memory_format=torch.channels_last)
    text, null = captions(batch)

    def draw():
        seconds, seeds = {}, list(range(batch))

        def timed(name, *inputs, **options):
            start = time.perf_counter()
            drawn = parts[name].sample(*inputs, noise=SeededNoise(seeds), **options)
            seconds[name] = time.perf_counter() - start
            return drawn

        embeds = timed("prior", text, null, **prior)
        base = timed("decoder", embeds, text, null, **decoder)
        assert timed("upsampler", base, **upsampler).isfinite().all()
        return seconds

    return draw, sum(p.numel() for part in parts.values() for p in part.parameters())
