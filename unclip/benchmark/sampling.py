"""Sampling against diffusers: its UnCLIPPipeline and ours, on the same weights."""

import tempfile
from pathlib import Path

from ..interop.diffusers_export import write_decoder, write_prior, write_upsampler
from .sides import sampling as shapes
from .turns import Side, in_turn

SAME = {  # what UnCLIPPipeline does
    "prior": {"num_inference_steps": shapes.PRIOR_STEPS, "guidance_scale": shapes.PRIOR_GUIDANCE, "num_samples": 1,
              "sampler": "ddpm"},
    "decoder": {"num_inference_steps": shapes.DECODER_STEPS, "guidance_scale": shapes.DECODER_GUIDANCE, "sampler": "ddpm"},
    "upsampler": {"num_inference_steps": shapes.UPSAMPLER_STEPS, "sampler": "ddpm"},
}  # fmt: skip


def measure(rounds, how, batch=None):
    """As `in_turn` gives it, for diffusers, the same with `channels_last`, and unclip.

    how: {"dtype", "threads", "device"}; batch: pictures at once; None: one.
    """
    with tempfile.TemporaryDirectory() as folder:
        prior, decoder, upsampler = shapes.parts()
        for name, part, write in (("prior", prior, write_prior), ("decoder", decoder, write_decoder),
                                  ("upsampler", upsampler, write_upsampler)):  # fmt: skip
            part.save(Path(folder) / "ours" / name, dtype=None)
            write(part, Path(folder) / "theirs")
        del prior, decoder, upsampler
        common = {"batch": batch or 1, **how}
        ours, theirs = {"folder": f"{folder}/ours", **common}, {"folder": f"{folder}/theirs", **common}
        return in_turn({
            "diffusers": lambda: Side("diffusers_sampling.py", theirs),
            "diffusers, channels_last": lambda: Side("diffusers_sampling.py", {**theirs, "channels_last": True}),
            "unclip": lambda: Side("ours_sampling.py", {**ours, **SAME}),
        }, rounds, "sampling")  # fmt: skip
