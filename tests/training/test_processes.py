import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unclip.training.processes import on_cpu

from .two import main as train_here

SCRIPT = Path(__file__).with_name("two.py")
REPOSITORY = Path(__file__).parents[2]


def test_two_processes_with_four_are_one_with_eight(tmp_path):
    """Launched as torchrun and `accelerate launch` do it: the gradients are averaged, and one process writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "",
              "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path / "both", "4"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    train_here(tmp_path / "one", 8)
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert "finished" in outputs[0] and "finished" not in outputs[1]
    _, expected = json.loads((tmp_path / "one.0.json").read_text())
    for rank in range(2):
        world, weights = json.loads((tmp_path / f"both.{rank}.json").read_text())
        assert world == 2
        for name in expected:
            torch.testing.assert_close(torch.tensor(weights[name]), torch.tensor(expected[name]), atol=1e-6, rtol=0)
    assert len((tmp_path / "both" / "log.jsonl").read_text().splitlines()) == 1
    counters = [json.loads((tmp_path / run / "checkpoint" / "counters.json").read_text()) for run in ("one", "both")]
    assert [c["images"] for c in counters] == [24, 24]


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
