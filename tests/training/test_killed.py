"""Runs that are killed with SIGKILL, at any moment, and started again."""

import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import pytest
import timm.optim  # noqa: F401  these and the next two only so that the processes need not
import torch
import torch.utils.tensorboard  # noqa: F401
import webdataset  # noqa: F401
from safetensors.torch import load_file
from torch import nn

from data.pictures import captioned_tar
from unclip.data.images import to_float
from unclip.data.stream import StreamBatches
from unclip.training.loop import train

from .toys import checkpoint_of, config, counters_of

MOMENTS, STEPS, SIDE = 50, 12, 8
CLOCK = {"seconds", "images_per_second", "waiting_for_data", "memory_gib"}  # of figures, what no two runs have alike


class Pixels(nn.Module):
    """Learns the mean picture, with the noise that diffusion draws and dropout; what trains is some matrices and a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Conv2d(8, 3, 3, padding=1))

    def loss(self, batch, generator=None):
        x_0 = to_float(batch["image"])
        noise = torch.randn(x_0.shape, generator=generator)
        return (self.net(noise) - x_0).square().flatten(1).mean(1), None


def run(shards, folder, kill_after=None):
    """Train to the end; or be killed, before that, at the `kill_after`-th call of a function from the first step on."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    stream = StreamBatches(shards, SIDE, 4, 0, workers=0)
    at, calls = stream.at, 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(step):
        if kill_after is not None:
            sys.setprofile(count)
        return at(step)

    stream.at = watched
    model, fixed = Pixels(), [{"image": torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8)}]
    settings = config(
        folder, {"name": "muon", "lr": 1e-2, "decay": 0.5, "warmup": 3}, steps=STEPS, batch_size=2, accumulate=2, log_every=1,
        validate_every=4, checkpoint_minutes=0, keep_checkpoints=2,
    )  # fmt: skip
    train(model, stream, fixed, settings, export=lambda m: None)
    sys.setprofile(None)


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have everything imported already, and no threads."""
    context, tests = multiprocessing.get_context("forkserver"), Path(__file__).parents[1]
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # the server finds what it is to import by this alone
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, [tests, tests.parent])))
        started(context, imported)
    return context


def started(processes, function, *args):
    process = processes.Process(target=function, args=args)
    process.start()
    process.join(120)
    return process.exitcode


def imported():
    assert "torch" in sys.modules


def state_of(folder):
    """All that a run leaves, less what the clock has a say in."""
    last = checkpoint_of(folder)
    tensors = {name: load_file(last / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}
    counters = {k: v for k, v in counters_of(folder).items() if k not in CLOCK}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return tensors, counters, [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


@pytest.mark.slow
def test_fifty_kills_change_nothing(processes, tmp_path):
    """Weights, moments, averages, the place in the data and the logged curve end as those of a run that was left alone."""
    shards = []
    for k in range(3):
        captioned_tar(tmp_path / "shards" / f"{k}.tar", range(20 * k, 20 * k + 15))
        shards.append(str(tmp_path / "shards" / f"{k}.tar"))
    straight = tmp_path / "straight"
    assert started(processes, run, shards, straight) == 0
    tensors, counters, log = state_of(straight)
    assert [line["step"] for line in log] == list(range(1, STEPS + 1)) and counters["images"] == 4 * STEPS
    rng, kills, in_writing, run_number = random.Random(0), 0, 0, 0
    while kills < MOMENTS:
        folder, ended = tmp_path / f"killed{run_number}", None
        while ended != 0:
            ended = started(processes, run, shards, folder, rng.randrange(1, 200_000))
            assert ended in (0, -signal.SIGKILL)
            kills += ended != 0
            in_writing += any(p.name.startswith(".") for p in (folder / "checkpoints").glob(".*"))
        run_number += 1
        again, again_counters, again_log = state_of(folder)
        assert again_counters == counters and again_log == log
        for name in tensors:
            assert tensors[name].keys() == again[name].keys()
            assert all(torch.equal(tensors[name][k], again[name][k]) for k in tensors[name]), name
        assert len(list((folder / "checkpoints").iterdir())) == 2
    assert in_writing >= 5  # of the moments, some were in a checkpoint's writing
