"""A decoder trained on noise as it is trained on pictures, for the measurement of what gradient checkpointing saves."""

import torch

from unclip.decoder import Decoder
from unclip.training.config import OptimizerConfig
from unclip.training.ema import EMA
from unclip.training.optimizers import build_optimizer
from unclip.training.speed import checkpoint_gradients


def build(folder, batch, checkpointed, threads, device="cpu"):
    """folder: of the decoder; checkpointed: whether with gradient checkpointing."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    decoder = Decoder.from_pretrained(folder).to(device, memory_format=torch.channels_last).train()
    if checkpointed:
        checkpoint_gradients(decoder)
    optimizer, ema = build_optimizer(decoder, OptimizerConfig(name="muon", lr=1e-4)), EMA(decoder, 0.998)
    side = decoder.image_size
    data = {
        "image": torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, device=device),
        "image_embed": torch.randn(batch, len(decoder.null_image), device=device),
    }

    def step():
        decoder.loss(data)[0].mean().backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(decoder)

    return step, sum(p.numel() for p in decoder.parameters())
