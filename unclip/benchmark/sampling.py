"""Sampling against diffusers: its UnCLIPPipeline and ours, on the same weights."""

import tempfile
from pathlib import Path

from ..interop.diffusers_export import write_decoder, write_prior, write_upsampler
from ..precision import chosen_dtype
from .sides import sampling as shapes
from .turns import Side, in_turn

SAME = {  # what UnCLIPPipeline does
    "prior": {"num_inference_steps": shapes.PRIOR_STEPS, "guidance_scale": shapes.PRIOR_GUIDANCE, "num_samples": 1,
              "sampler": "ddpm"},
    "decoder": {"num_inference_steps": shapes.DECODER_STEPS, "guidance_scale": shapes.DECODER_GUIDANCE, "sampler": "ddpm"},
    "upsampler": {"num_inference_steps": shapes.UPSAMPLER_STEPS, "sampler": "ddpm"},
}  # fmt: skip
FEWER = {  # as good: see "Choosing how it draws" in data/pocket/README.md
    "prior": {**SAME["prior"], "num_inference_steps": 10, "sampler": "dpm++"},
    "decoder": {**SAME["decoder"], "num_inference_steps": 10, "guidance_end": 0.8, "sampler": "dpm++sde"},
    "upsampler": {"num_inference_steps": 2, "sampler": "ddim"},
}


def measure(rounds, how, batch=None):
    """As `in_turn` gives it, for diffusers, the same with `channels_last`, unclip in FEWER steps, and unclip in the SAME.

    how: {"dtype", "threads", "device"}, where FEWER steps are taken in what `--dtype auto` draws in; batch: pictures at
    once; None: one.
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
            "unclip, fewer steps": lambda: Side("ours_sampling.py", {**ours, **FEWER, "dtype": chosen_dtype("auto", how["device"])}),
            "unclip": lambda: Side("ours_sampling.py", {**ours, **SAME}),
        }, rounds, "sampling")  # fmt: skip
