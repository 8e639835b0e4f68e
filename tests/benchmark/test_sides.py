"""Our own sides, in this process, on the tests' model."""

import pytest
import torch

from unclip.benchmark.sides import ours_checkpointing, ours_drawing, ours_training
from unclip.decoder import Decoder
from unclip.training.speed import networks_of


@pytest.fixture
def folder(model_files):
    return str(model_files / "decoder")


@pytest.mark.parametrize("size, side", [(None, 8), (16, 16)])
def test_drawing(folder, monkeypatch, size, side):
    drawn, sample = [], Decoder.sample
    monkeypatch.setattr(Decoder, "sample", lambda *args, **options: drawn.append(sample(*args, **options)) or drawn[-1])
    draw, parameters = ours_drawing.build(folder, batch=3, steps=2, size=size, threads=1)
    draw()
    assert drawn[0].shape == (3, 3, side, side) and torch.isfinite(drawn[0]).all()
    assert parameters == sum(p.numel() for p in Decoder.from_pretrained(folder).parameters())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_training_step(folder, monkeypatch, checkpointed):
    models, load = [], Decoder.from_pretrained
    monkeypatch.setattr(Decoder, "from_pretrained", lambda folder: models.append(load(folder)) or models[-1])
    step, parameters = ours_checkpointing.build(folder, batch=2, checkpointed=checkpointed, threads=1)
    model, before = models[0], load(folder).state_dict()
    step()
    assert parameters == sum(p.numel() for p in model.parameters())
    assert model.training and [unet.gradient_checkpointing for unet in networks_of(model, "")] == [checkpointed]
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("part", ["decoder", "prior"])
@pytest.mark.parametrize("mode", [None, "default"])
def test_a_step_of_adamw(monkeypatch, part, mode):
    """Compiled where that is asked for, and only there."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, mode: compiled.append(mode) or function)
    step, parameters = ours_training.build(part, batch=2, dtype="float32", threads=1, compile=mode)
    assert step() is None and parameters > 1e6
    assert set(compiled) == ({mode} if mode else set())
