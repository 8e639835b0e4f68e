"""What every measurement refuses, through the script."""

import pytest

from unclip.benchmark import data, memory, roofline, sampling, scaling, startup, training

MEASURES = {"sampling": sampling, "training": training, "roofline": roofline, "scaling": scaling, "memory": memory,
            "data": data, "startup": startup}  # fmt: skip


@pytest.mark.parametrize("what, asked, says", [
    ("sampling", ["--rounds", "0", "--threads", "2"], "0 rounds, 2 threads: at least 1 of each"),
    ("training", ["--rounds", "3", "--threads", "0"], "3 rounds, 0 threads: at least 1 of each"),
    ("sampling", ["--rounds", "3", "--batch", "0", "--threads", "2"], "3 rounds, 2 threads, 0 samples: at least 1 of each"),
    ("roofline", ["--batch", "-1", "--threads", "2"], "-1 pictures, 2 threads: at least 1 of each"),
    ("roofline", ["--batch", "1", "--threads", "0"], "1 pictures, 0 threads: at least 1 of each"),
    ("scaling", ["--rounds", "0"], "0 rounds: at least 1"),
    ("data", ["--rounds", "0"], "0 rounds, 32 pixels: at least 1 of each"),
    ("data", ["--rounds", "1", "--size", "0"], "1 rounds, 0 pixels: at least 1 of each"),
    ("startup", ["--rounds", "0"], "0 rounds: at least 1"),
    ("memory", ["--rounds", "0", "--threads", "2"], "0 rounds, 2 threads: at least 1 of each"),
])  # fmt: skip
def test_less_than_one_is_refused_before_measuring(run_script, monkeypatch, model_files, tmp_path, what, asked, says):
    monkeypatch.setattr(MEASURES[what], "measure", lambda *args, **options: pytest.fail("measured"))
    assert run_script("benchmark", what, *asked, "--model", model_files, "--out", tmp_path) == (2, [], [f"error: {says}"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["sampling", "training", "roofline", "memory"])
def test_a_device_that_is_not_there_is_refused_before_measuring(run_script, monkeypatch, model_files, tmp_path, what):
    """No machine has a hundred GPUs, and most that run this have none."""
    monkeypatch.setattr(MEASURES[what], "measure", lambda *args, **options: pytest.fail("measured"))
    says = "error: no device 'cuda:99' on this machine: use --device cpu, or auto"
    argv = ["--device", "cuda:99", "--model", model_files, "--out", tmp_path]
    assert run_script("benchmark", what, *argv) == (2, [], [says])
    assert not any(tmp_path.iterdir())
