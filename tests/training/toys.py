"""A model with a known optimum, its batches, and a config for it."""

import json
from pathlib import Path

import torch
from torch import nn

from unclip.training.config import RunConfig

TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


class Line(nn.Module):
    """Linear regression. noisy: every loss also draws from torch's generator, as diffusion does."""

    def __init__(self, noisy=False):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("seen", torch.zeros(()))
        self.noisy, self.harm = noisy, None

    def loss(self, batch, generator=None):
        if self.training:
            self.seen += 1
        if self.harm is not None and self.training:
            self.harm(int(self.seen))
        y = batch["y"]
        if self.noisy:
            y = y + 0.1 * torch.randn(y.shape, generator=generator)
        loss = (self.linear(batch["x"]) - y).square().mean(dim=1)
        return loss * batch.get("scale", 1.0), torch.linspace(0, 0.99, len(loss))


class Batches:
    """y = TRUTH x + 0.25, drawn by the step alone."""

    def __init__(self, batch_size=8, rank=0, world=1):
        self.batch_size, self.rank, self.world = batch_size, rank, world

    def at(self, step):
        start = (step * self.world + self.rank) * self.batch_size
        x = torch.stack([torch.randn(3, generator=torch.Generator().manual_seed(start + k)) for k in range(self.batch_size)])
        return {"x": x, "y": x @ TRUTH.T + 0.25, "key": [str(start + k) for k in range(self.batch_size)]}

    def state(self):
        return {}

    def load(self, state):
        assert state == {}


def checkpoint_of(run):
    """The folder of a run's newest checkpoint."""
    return sorted((Path(run) / "checkpoints").iterdir())[-1]


def counters_of(run):
    return json.loads((checkpoint_of(run) / "counters.json").read_text())


def config(run, optimizer=(), **train):
    options = {"name": "adamw", "lr": 0.05, "warmup": 0, "decay": 0.0, "clip_norm": 100.0, **dict(optimizer)}
    settings = {"run": str(run), "batch_size": 8, "steps": 10, "precision": "no", "ema": 0.9, **train}
    return RunConfig(data={"folder": "none", "image_size": 8}, optimizer=options, train=settings)
