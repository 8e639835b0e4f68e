"""Gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): memory for time."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointing(nn.Module):
    """Base of networks made of layers.

    gradient_checkpointing: keep of every layer no more than what goes into it, and run it again, with the same dropout,
    when the backward pass comes to it. It changes no gradient, and nothing where there is none.
    """

    gradient_checkpointing = False

    def run(self, layer, *args):
        """layer(*args)"""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)
