"""diffusers' side of sampling: its UnCLIPPipeline, with the same weights and captions, and no text encoder to run."""

from pathlib import Path
from types import SimpleNamespace

import torch

from unclip.operators import declare_operators

declare_operators()  # diffusers imports transformers, and that torchvision

from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

from unclip.benchmark.sides.sampling import (
    DECODER_GUIDANCE, DECODER_STEPS, LENGTH, PRIOR_GUIDANCE, PRIOR_STEPS, UPSAMPLER_STEPS, captions,
)  # fmt: skip
from unclip.benchmark.worker import now

KINDS = {
    "prior": PriorTransformer, "decoder": UNet2DConditionModel, "text_proj": UnCLIPTextProjModel,
    "super_res_first": UNet2DModel, "super_res_last": UNet2DModel, "prior_scheduler": UnCLIPScheduler,
    "decoder_scheduler": UnCLIPScheduler, "super_res_scheduler": UnCLIPScheduler,
}  # fmt: skip


class Stages(UnCLIPPipeline):
    """Their pipeline, which notes how long each of its three loops takes: it walks each through its progress bar."""

    def progress_bar(self, timesteps):
        name = ("prior", "decoder", "upsampler")[len(self.seconds)]
        start = now(str(self.device))
        yield from timesteps
        self.seconds[name] = now(str(self.device)) - start


def build(folder, batch, dtype, threads, channels_last=False, device="cpu"):
    """channels_last: lay the U-Nets' tensors out so, as their manual advises for speed."""
    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype)
    parts = {name: kind.from_pretrained(Path(folder) / name) for name, kind in KINDS.items()}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            part.to(device, dtype)
            if channels_last and name in ("decoder", "super_res_first", "super_res_last"):
                part.to(memory_format=torch.channels_last)
    text, null = captions(batch, device)
    empty = SimpleNamespace(text_embeds=null["text_embed"].expand(batch, -1).to(dtype),
                            last_hidden_state=null["text_states"].expand(batch, -1, -1).to(dtype))  # fmt: skip
    tokens = SimpleNamespace(input_ids=torch.zeros(batch, LENGTH), attention_mask=null["text_mask"].expand(batch, -1).long())

    def tokenizer(captions, **_):
        return tokens

    tokenizer.model_max_length = LENGTH
    pipeline = Stages(text_encoder=None, tokenizer=None, **parts)
    pipeline.text_encoder, pipeline.tokenizer = lambda ids: empty, tokenizer
    outputs = text["text_embed"].to(dtype), text["text_states"].to(dtype)

    def draw():
        pipeline.seconds = {}
        images = pipeline(
            text_model_output=outputs, text_attention_mask=text["text_mask"], output_type="np",
            prior_num_inference_steps=PRIOR_STEPS, decoder_num_inference_steps=DECODER_STEPS,
            super_res_num_inference_steps=UPSAMPLER_STEPS, prior_guidance_scale=PRIOR_GUIDANCE,
            decoder_guidance_scale=DECODER_GUIDANCE,
        ).images  # fmt: skip
        assert (images == images).all()
        return dict(pipeline.seconds)

    networks = [part for name, part in parts.items() if isinstance(part, torch.nn.Module) and name != "super_res_last"]
    return draw, sum(p.numel() for part in networks for p in part.parameters())
