"""Several processes on this machine's processor, launched as a user would."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from unclip.training.processes import on_cpu

from . import several
from .toys import checkpoint_of, counters_of

SCRIPT = Path(__file__).with_name("several.py")
REPOSITORY = Path(__file__).parents[2]


def launch(what, folder, processes, kind, *options):
    """`accelerate launch` of several.py by one of the ready-made configs: what its processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    config = ["--config_file", REPOSITORY / "configs" / "accelerate" / f"{kind}.yaml"]
    shape = ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", port]
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    outside = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    done = subprocess.run(
        [*accelerate, *config, *shape, *options, SCRIPT, what, folder],
        env={**outside, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads((folder / f"{what}{processes}.{rank}.json").read_text()) for rank in range(processes)]


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_log(run, other, rel):
    """That all figures are alike but those of time and memory."""
    for line, expected in zip(log_of(run), log_of(other), strict=True):
        for name in line.keys() - {"seconds", "images_per_second", "waiting_for_data", "memory_gib"}:
            assert line[name] == pytest.approx(expected[name], rel=rel, nan_ok=True), name


def anew():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_are_one_with_the_same_batch(tmp_path, processes):
    """Weights and losses; and of a contrastive loss, where every pair meets those of the other processes, the gradients."""
    found = launch("ddp", tmp_path, processes, "cpu")
    expected = several.ddp(tmp_path)
    anew()
    for one in found:
        assert one["world"] == processes and one["stopped"]
        assert "on a disk that all share" in one["refused"]
        for name, value in expected["weights"].items():
            torch.testing.assert_close(torch.tensor(one["weights"][name]), torch.tensor(value), atol=1e-6, rtol=0)
        for gradient, whole in zip(one["gradients"], expected["gradients"]):
            torch.testing.assert_close(torch.tensor(gradient), torch.tensor(whole), atol=1e-6, rtol=1e-3)
    assert max(map(max, expected["gradients"])) > 1e-3
    both = [log_of(tmp_path / run) for run in ("of1", f"of{processes}")]
    for line, other in zip(*both, strict=True):
        for name in ("step", "images", "train_loss", "gradient_norm", "learning_rate", "ema_distance"):
            assert line[name] == pytest.approx(other[name], rel=1e-5), name
    assert counters_of(tmp_path / f"told{processes}")["step"] == 2  # one process was told, all stopped, and saved


def test_in_pieces_it_is_the_same_and_one_process_reads_it(tmp_path):
    """FSDP, full shard: what it learns is what DDP learns, its checkpoint is whole, and one process goes on with it."""
    in_pieces = launch("sharded", tmp_path, 2, "nodes_fsdp", "--machine_rank", "0", "--main_process_ip", "127.0.0.1")
    whole = launch("sharded", tmp_path, 2, "cpu")
    assert [one["in_pieces"] for one in in_pieces + whole] == [True, True, False, False]
    assert not in_pieces[1]["exported"] and in_pieces[0]["exported"].keys() == whole[0]["exported"].keys()
    for name, value in whole[0]["exported"].items():
        torch.testing.assert_close(torch.tensor(in_pieces[0]["exported"][name]), torch.tensor(value), atol=1e-5, rtol=1e-4)
    assert_same_log(tmp_path / "pieces", tmp_path / "whole", 1e-4)
    assert (tmp_path / "pieces" / "samples" / "0000003.png").is_file()

    shutil.copytree(tmp_path / "pieces", tmp_path / "on")
    alone = several.decoder_run(tmp_path / "on", several.STEPS)  # over already: it exports what it read
    anew()
    assert alone["exported"].keys() == in_pieces[0]["exported"].keys()
    for name, value in alone["exported"].items():
        assert value == in_pieces[0]["exported"][name]
    assert checkpoint_of(tmp_path / "on").name == "00000003"


@pytest.fixture(scope="module")
def without_deepspeed(tmp_path_factory):
    """What two processes of DDP learn, and where."""
    pytest.importorskip("deepspeed", reason="needs pip install deepspeed")
    folder = tmp_path_factory.mktemp("ddp")
    return folder, launch("zero", folder, 2, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_learns_the_same(tmp_path, without_deepspeed, stage):
    """ZeRO: from the start, or going on with a run that DDP has begun, it learns what DDP does, and keeps it in files of the
    same names and shapes. It leaves the same steps out, clips and adds up gradients alike, and in bfloat16 is near."""
    ddp, expected = without_deepspeed
    shutil.copytree(ddp / "begun", tmp_path / "begun")
    found = launch("zero", tmp_path, 2, f"deepspeed_zero{stage}")
    assert [one["in_pieces"] for one in found] == [stage == 3] * 2
    for name, value in expected[0]["exported"].items():
        for one in ("exported", "goes_on"):
            torch.testing.assert_close(torch.tensor(found[0][one][name]), torch.tensor(value), atol=1e-6, rtol=1e-5)
    for run, other in [("whole", "whole"), ("begun", "whole"), ("toy", "toy")]:
        assert_same_log(tmp_path / run, ddp / other, 1e-4)
        for part in ("model", "ema", "optimizer"):
            files = [load_file(checkpoint_of(folder) / f"{part}.safetensors") for folder in (tmp_path / run, ddp / other)]
            assert files[0].keys() == files[1].keys()
            for name, value in files[0].items():
                torch.testing.assert_close(value, files[1][name], atol=1e-6, rtol=1e-4)
    assert_same_log(tmp_path / "half", ddp / "half", 1e-3)
    assert log_of(tmp_path / "half")[0]["gradient_norm"] != log_of(tmp_path / "whole")[0]["gradient_norm"]
    assert counters_of(tmp_path / "toy")["skipped_steps"] == 2


@pytest.mark.parametrize("environment, answer", [
    ({}, False), ({"ACCELERATE_USE_CPU": "true"}, True), ({"WORLD_SIZE": "2"}, True), ({"WORLD_SIZE": "1"}, False),
])  # fmt: skip
def test_when_to_leave_gpus_alone(monkeypatch, environment, answer):
    for name in ("ACCELERATE_USE_CPU", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_cpu() is answer
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert on_cpu() is bool("ACCELERATE_USE_CPU" in environment)
