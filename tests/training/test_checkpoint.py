import json
import os

import pytest
import torch
from torch import nn

from unclip.errors import UserError
from unclip.training.checkpoint import load_checkpoint, save_checkpoint
from unclip.training.ema import EMA


def parts(width=4, optimizer=torch.optim.AdamW, steps=2):
    torch.manual_seed(width)
    model = nn.Conv2d(2, width, 3).to(memory_format=torch.channels_last)
    ema, optimizer = EMA(model, 0.9), optimizer(model.parameters())
    for _ in range(steps):
        model(torch.ones(1, 2, 3, 3)).sum().backward()
        optimizer.step()
        ema.update(model)
    return model, ema, optimizer


def test_everything_comes_back(tmp_path):
    model, ema, optimizer = parts()
    save_checkpoint(tmp_path, model, ema, optimizer, {"step": 2, "seconds": 1.5, "images": 3})
    other, other_ema, other_optimizer = parts(steps=0)
    assert load_checkpoint(tmp_path, other, other_ema, other_optimizer) == {"step": 2, "seconds": 1.5, "images": 3}
    assert torch.equal(model.weight, other.weight) and other_ema.steps == 2
    assert all(torch.equal(ema.state[k], other_ema.state[k]) for k in ema.state)
    assert other_ema.state["weight"].is_contiguous(memory_format=torch.channels_last)
    moments = [o.state[m.weight] for o, m in ((optimizer, model), (other_optimizer, other))]
    assert all(torch.equal(moments[0][k], moments[1][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert moments[1]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


def test_a_new_run_has_none(tmp_path):
    assert load_checkpoint(tmp_path, *parts()) is None


def test_killed_between_two_renames(tmp_path):
    save_checkpoint(tmp_path, *parts(), {"step": 2})
    os.replace(tmp_path / "checkpoint", tmp_path / ".checkpoint.old")
    assert load_checkpoint(tmp_path, *parts(steps=0)) == {"step": 2}


def test_another_model_or_optimizer_is_refused(tmp_path):
    save_checkpoint(tmp_path, *parts(), {"step": 2})
    with pytest.raises(UserError, match="cannot resume from .*checkpoint .*size mismatch"):
        load_checkpoint(tmp_path, *parts(width=5))
    with pytest.raises(UserError, match="trained with AdamW"):
        load_checkpoint(tmp_path, *parts(optimizer=lambda p: torch.optim.SGD(p, lr=1)))


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "counters.json"])
@pytest.mark.parametrize("harm", ["missing", "cut off"])
def test_a_damaged_checkpoint_is_said_in_a_line(tmp_path, file, harm):
    save_checkpoint(tmp_path, *parts(), {"step": 2})
    path = tmp_path / "checkpoint" / file
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path, *parts(steps=0))
    assert "cannot resume" in str(error.value) and "\n" not in str(error.value)


def test_state_of_the_loss_scaler(tmp_path):
    class Scaler:
        def __init__(self, state):
            self.state = state

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.state = state

    save_checkpoint(tmp_path, *parts(), {"step": 2}, Scaler({"scale": 512.0}))
    scaler = Scaler(None)
    assert load_checkpoint(tmp_path, *parts(steps=0), scaler) == {"step": 2}
    assert scaler.state == {"scale": 512.0}
    assert json.loads((tmp_path / "checkpoint" / "counters.json").read_text())["optimizer"] == "AdamW"
