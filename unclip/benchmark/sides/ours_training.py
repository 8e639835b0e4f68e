"""Our side of training: a step of AdamW on the pocket's decoder or prior, on made-up data."""

import contextlib

import torch

from unclip.conditioning import trimmed
from unclip.decoder import Decoder
from unclip.prior import DiffusionPrior
from unclip.training.config import OptimizerConfig
from unclip.training.optimizers import build_optimizer
from unclip.training.speed import compile_networks

from unclip.benchmark.sides.texts import made_up

DIM, LENGTH, TOKENS = 128, 24, 10  # of a caption such as "a photo of a golden retriever"
UNET = {
    "channels": 96, "multipliers": [1, 2, 2], "num_res_blocks": 1, "attention_levels": [1, 2], "middle_attention": True,
    "head_dim": 64, "norm": "layer", "patch": 2,
}  # fmt: skip
TRANSFORMER = {"text_dim": DIM, "text_length": LENGTH, "width": 192, "layers": 3, "heads": 3}


def build(part, batch, dtype, threads, device="cpu", compile=None):
    """part: "decoder" or "prior"; compile: a mode of torch.compile; None: the networks run as they are."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if part == "decoder":
        model = Decoder(unet=UNET, image_size=32, embed_dim=DIM).to(memory_format=torch.channels_last)
    else:
        model = DiffusionPrior(embed_dim=DIM, transformer=TRANSFORMER)
    model.to(device)
    if compile:
        compile_networks(model, compile)
    data = {"image": torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8), "image_embed": torch.randn(batch, DIM)}
    text, null_text = trimmed(*(made_up(rows, TOKENS, DIM, LENGTH) for rows in (batch, 1)))  # as the trainer's batches come
    data |= text | {f"null_{key}": value for key, value in null_text.items()}
    data = {key: value.to(device) for key, value in data.items()}
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", lr=1e-4, weight_decay=0.01))
    kind = torch.device(device).type
    if kind == "cuda" and dtype == "float32":
        torch.set_float32_matmul_precision("high")  # as our training has it: see `allow_tf32`
    half = torch.autocast(kind, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def step():
        with half:
            loss = model.loss(data)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in model.parameters())
