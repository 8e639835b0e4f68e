import json
import os

import pytest
import torch
import yaml
from torch import nn

from unclip.errors import UserError
from unclip.training.checkpoint import Checkpoints
from unclip.training.ema import EMA

from .toys import checkpoint_of, config

COUNTERS = {"step": 2, "seconds": 1.5, "images": 3}


def parts(width=4, optimizer=torch.optim.AdamW, steps=2):
    torch.manual_seed(width)
    model = nn.Conv2d(2, width, 3).to(memory_format=torch.channels_last)
    ema, optimizer = EMA(model, 0.9), optimizer(model.parameters())
    for _ in range(steps):
        model(torch.ones(1, 2, 3, 3)).sum().backward()
        optimizer.step()
        ema.update(model)
    return model, ema, optimizer


def checkpoints(run, *of, settings=None, **options):
    return Checkpoints(run, settings or config(run), *(of or parts(steps=0)), **options)


def test_everything_comes_back(tmp_path):
    model, ema, optimizer = parts()
    checkpoints(tmp_path, model, ema, optimizer).save(COUNTERS)
    other, other_ema, other_optimizer = parts(steps=0)
    assert checkpoints(tmp_path, other, other_ema, other_optimizer).load() == COUNTERS
    assert torch.equal(model.weight, other.weight) and other_ema.steps == 2
    assert all(torch.equal(ema.state[k], other_ema.state[k]) for k in ema.state)
    assert other_ema.state["weight"].is_contiguous(memory_format=torch.channels_last)
    moments = [o.state[m.weight] for o, m in ((optimizer, model), (other_optimizer, other))]
    assert all(torch.equal(moments[0][k], moments[1][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert moments[1]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


def test_a_new_run_has_none(tmp_path):
    assert checkpoints(tmp_path).load() is None


def test_the_newest_are_kept_and_the_last_is_gone_on_with(tmp_path):
    settings = config(tmp_path, keep_checkpoints=3)
    for step in (1, 9, 10, 11, 200):
        checkpoints(tmp_path, *parts(), settings=settings).save({"step": step})
    there = checkpoints(tmp_path, settings=settings)
    assert [folder.name for folder in there.saved()] == ["00000010", "00000011", "00000200"]
    assert there.load() == {"step": 200}


def test_what_a_killed_run_left_is_no_checkpoint_and_is_cleared_away(tmp_path):
    checkpoints(tmp_path, *parts()).save({"step": 2})
    left = tmp_path / "checkpoints" / ".00000003.abc"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    there = checkpoints(tmp_path)
    assert there.load() == {"step": 2}
    there.clear_away()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000002"]


def test_a_process_that_does_not_write_writes_nothing(tmp_path):
    checkpoints(tmp_path, *parts()).save({"step": 2}, write=False)
    assert not list(tmp_path.iterdir())


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A machine that loses its power keeps the names of renamed files, but not what was never synced."""
    order, synced, replace = [], os.fsync, os.replace

    def names(handle):
        return os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))

    monkeypatch.setattr("os.fsync", lambda handle: order.append(names(handle)) or synced(handle))
    monkeypatch.setattr("os.replace", lambda a, b: order.append(("named", str(b))) or replace(a, b))
    checkpoints(tmp_path, *parts()).save({"step": 2})
    named = order.index(("named", str(tmp_path / "checkpoints" / "00000002")))
    files = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "counters.json", "config.yaml"}
    assert files <= set(order[:named]) and "checkpoints" in order[named:]


def test_another_model_or_optimizer_is_refused(tmp_path):
    checkpoints(tmp_path, *parts()).save({"step": 2})
    with pytest.raises(UserError, match="cannot resume from .*00000002 .*size mismatch"):
        checkpoints(tmp_path, *parts(width=5)).load()
    with pytest.raises(UserError, match="trained with AdamW"):
        checkpoints(tmp_path, *parts(optimizer=lambda p: torch.optim.SGD(p, lr=1))).load()


@pytest.mark.parametrize("change, says", [
    ({"seed": 1}, "train.seed was 0, and is 1 now"),
    ({"ema": 0.5}, "train.ema was 0.9, and is 0.5 now"),
    ({"batch_size": 4}, "the batch of all processes was 8, and is 4 now"),
    ({"optimizer": {"name": "muon"}}, "optimizer.name was adamw, and is muon now"),
])  # fmt: skip
def test_another_config_is_refused_and_the_difference_named(tmp_path, change, says):
    checkpoints(tmp_path, *parts()).save({"step": 2})
    with pytest.raises(UserError) as error:
        checkpoints(tmp_path, settings=config(tmp_path, **change)).load()
    assert f"is of another config: {says}; set it back" in str(error.value) and "\n" not in str(error.value)


def test_the_difference_can_be_allowed_by_hand(tmp_path):
    checkpoints(tmp_path, *parts()).save({"step": 2})
    file = checkpoint_of(tmp_path) / "config.yaml"
    file.write_text(yaml.safe_dump({**(kept := yaml.safe_load(file.read_text())), "train": {**kept["train"], "seed": 1}}))
    assert checkpoints(tmp_path, settings=config(tmp_path, seed=1)).load() == {"step": 2}


@pytest.mark.parametrize("change, processes", [
    ({"steps": 1000, "validate_every": 3, "keep_checkpoints": 9}, 1),
    ({"optimizer": {"lr": 1.0, "decay": 1.0}}, 1),
    ({"batch_size": 4, "accumulate": 2}, 1),
    ({"batch_size": 2}, 4),
])  # fmt: skip
def test_what_may_change_from_start_to_start(tmp_path, change, processes):
    """How long, how fast, how often it is looked at, and on how many processes the same batch is trained."""
    checkpoints(tmp_path, *parts()).save({"step": 2})
    assert checkpoints(tmp_path, settings=config(tmp_path, **change), processes=processes).load() == {"step": 2}


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "counters.json", "config.yaml"])
@pytest.mark.parametrize("harm", ["missing", "cut off"])
def test_a_damaged_checkpoint_is_said_in_a_line_and_the_one_before_goes_on(tmp_path, file, harm):
    for step in (1, 2):
        checkpoints(tmp_path, *parts()).save({"step": step})
    path = tmp_path / "checkpoints" / "00000002" / file
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError) as error:
        checkpoints(tmp_path).load()
    assert "cannot resume" in str(error.value) and "\n" not in str(error.value)
    assert "or remove that folder, and the one before is used" in str(error.value)
    for path in path.parent.iterdir():
        path.unlink()
    path.parent.rmdir()
    assert checkpoints(tmp_path).load() == {"step": 1}


@pytest.mark.parametrize("file, content", [
    ("config.yaml", ""), ("config.yaml", "x"), ("config.yaml", "- 1"), ("config.yaml", "{train: 3}"), ("counters.json", '"x"'),
    ("counters.json", "[]"), ("counters.json", "{}"),
])  # fmt: skip
def test_what_was_edited_by_hand_and_is_none_is_said_in_a_line(tmp_path, file, content):
    checkpoints(tmp_path, *parts()).save({"step": 2})
    (checkpoint_of(tmp_path) / file).write_text(content)
    with pytest.raises(UserError, match="cannot resume"):
        checkpoints(tmp_path).load()


def test_state_of_the_loss_scaler(tmp_path):
    class Scaler:
        def __init__(self, state):
            self.state = state

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.state = state

    checkpoints(tmp_path, *parts(), scaler=Scaler({"scale": 512.0})).save({"step": 2})
    scaler = Scaler(None)
    assert checkpoints(tmp_path, *parts(steps=0), scaler=scaler).load() == {"step": 2}
    assert scaler.state == {"scale": 512.0}
    assert json.loads((checkpoint_of(tmp_path) / "counters.json").read_text())["optimizer"] == "AdamW"
