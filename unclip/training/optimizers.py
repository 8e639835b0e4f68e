"""Optimizers: AdamW, or Muon (Jordan et al. 2024) on the inner matrices with AdamW on the rest."""

from functools import partial

import torch

from ..operators import declare_operators
from .precision import bfloat16_trains_fast


def build_optimizer(model, config):
    """The optimizer of a model. Weight decay spares biases, norms and embeddings.

    With "muon", matrices and convolutions inside the network are updated by Muon. A model names in `edge_layers` the
    prefixes of parameters that are not inner ones (first and last layer, embeddings), which AdamW updates, as Muon's
    authors advise.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    edges = tuple(getattr(model, "edge_layers", ()))
    inner = [p for name, p in trained if p.ndim >= 2 and not name.startswith(edges)]
    edge = [p for name, p in trained if p.ndim >= 2 and name.startswith(edges)]
    flat = [p for _, p in trained if p.ndim < 2]
    groups = [
        {"params": inner, "weight_decay": config.weight_decay},
        {"params": edge, "weight_decay": 0.0, "use_fallback": True},
        {"params": flat, "weight_decay": 0.0, "use_fallback": True},
    ]
    groups = [g for g in groups if g["params"]]
    if config.name == "muon":
        declare_operators()
        from timm.optim import muon

        # timm orthogonalises in bfloat16, wherever it runs, and has no option for it
        dtype = torch.bfloat16 if bfloat16_trains_fast() else torch.float32
        muon.zeropower_via_newtonschulz = partial(muon.zeropower_via_newtonschulz, dtype=dtype)
        return muon.Muon(groups, lr=config.lr, betas=config.betas, nesterov=True)
    for group in groups:
        group.pop("use_fallback", None)
    fused = all(p.is_cuda for _, p in trained)  # one kernel for all parameters
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused or None)


def rate_at(step, progress, config):
    """The factor on the learning rate: warm-up over the first steps, 1, then down to 0 over the last share."""
    up = min(1.0, (step + 1) / max(1, config.warmup))
    down = min(1.0, (1 - progress) / config.decay) if config.decay else 1.0
    return up * max(0.0, down)
