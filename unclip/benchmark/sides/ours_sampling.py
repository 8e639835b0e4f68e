"""Our side of sampling: prior, decoder and upsampler of a folder, for made-up captions."""

import torch

from unclip.decoder import Decoder
from unclip.diffusion import SeededNoise
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

from unclip.benchmark.sides.sampling import captions
from unclip.benchmark.worker import now


def build(folder, batch, dtype, threads, prior, decoder, upsampler, device="cpu"):
    """prior, decoder, upsampler: keywords of their `sample`."""
    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype)
    kinds = {"prior": DiffusionPrior, "decoder": Decoder, "upsampler": Upsampler}
    parts = {name: kind.from_pretrained(f"{folder}/{name}", device, dtype) for name, kind in kinds.items()}
    for name in ("decoder", "upsampler"):
        parts[name].to(memory_format=torch.channels_last)
    text, null = captions(batch, device)

    def draw():
        seconds, seeds = {}, list(range(batch))

        def timed(name, *inputs, **options):
            start = now(device)
            drawn = parts[name].sample(*inputs, noise=SeededNoise(seeds), **options)
            seconds[name] = now(device) - start
            return drawn

        embeds = timed("prior", text, null, **prior)
        base = timed("decoder", embeds, text, null, **decoder)
        assert timed("upsampler", base, **upsampler).isfinite().all()
        return seconds

    return draw, sum(p.numel() for part in parts.values() for p in part.parameters())
