"""What every measurement refuses, through the script."""

import pytest

from unclip.benchmark import memory, roofline, sampling, scaling, startup, training

MEASURES = {"sampling": sampling, "training": training, "roofline": roofline, "scaling": scaling, "memory": memory,
            "startup": startup}  # fmt: skip


@pytest.mark.parametrize("what, asked, says", [
    ("sampling", ["--rounds", "0", "--threads", "2"], "0 rounds, 2 threads: at least 1 of each"),
    ("training", ["--rounds", "3", "--threads", "0"], "3 rounds, 0 threads: at least 1 of each"),
    ("roofline", ["--batch", "-1", "--threads", "2"], "-1 pictures, 2 threads: at least 1 of each"),
    ("roofline", ["--batch", "1", "--threads", "0"], "1 pictures, 0 threads: at least 1 of each"),
    ("scaling", ["--rounds", "0"], "0 rounds: at least 1"),
    ("startup", ["--rounds", "0"], "0 rounds: at least 1"),
    ("memory", ["--rounds", "0", "--threads", "2"], "0 rounds, 2 threads: at least 1 of each"),
])  # fmt: skip
def test_less_than_one_is_refused_before_measuring(run_script, monkeypatch, model_files, tmp_path, what, asked, says):
    monkeypatch.setattr(MEASURES[what], "measure", lambda *args, **options: pytest.fail("measured"))
    assert run_script("benchmark", what, *asked, "--model", model_files, "--out", tmp_path) == (2, [], [f"error: {says}"])
    assert not any(tmp_path.iterdir())
