"""The comparisons behind the script, with made-up measurements."""

import json

import pytest

from unclip.benchmark import sampling, training

RUN = {"seconds": 2.0, "parts": {}, "peak_bytes": None}
SIDES = {name: {"parameters": 1_000_000, "runs": [RUN, RUN]} for name in ("theirs", "unclip")}
PEER = ["--device", "cpu", "--peer-python", "peer/bin/python"]
HOW = {"dtype": "bfloat16", "threads": 3, "device": "cpu"}


@pytest.mark.parametrize("what, module, found, passed, work", [
    ("sampling", sampling, SIDES, (2, HOW, None), "sampling"),
    ("training", training, {"prior": SIDES}, (2, HOW, None, None, "peer/bin/python"), "prior"),
])  # fmt: skip
def test_the_script_prints_and_names_what_it_wrote(run_script, monkeypatch, tmp_path, what, module, found, passed, work):
    asked = []
    monkeypatch.setattr(module, "measure", lambda *args: asked.append(args) or found)
    argv = ["--rounds", "2", "--threads", "3", "--dtype", "bfloat16", *PEER, "--out", tmp_path]
    code, out, _ = run_script("benchmark", what, *argv)
    assert code == 0 and asked == [passed]
    paths = [tmp_path / f"{what}.{kind}" for kind in ("json", "md", "png")]
    assert out[-3:] == [str(path) for path in paths] and all(path.is_file() for path in paths)
    assert out[:-3] == paths[1].read_text().splitlines()
    assert out[0].endswith("; rounds 2, threads 3, dtype bfloat16") and out[-4].startswith(f"| {work} | unclip |")
    assert list(json.loads(paths[0].read_text())["measured"]) == [work]


@pytest.mark.parametrize("batch, said", [("5", "; rounds 5, threads 1, dtype float32, batch 5"), (None, ", dtype float32")])
def test_a_batch_is_passed_on_and_named(run_script, monkeypatch, tmp_path, batch, said):
    asked = []
    monkeypatch.setattr(sampling, "measure", lambda rounds, how, batch: asked.append(batch) or SIDES)
    argv = ["--device", "cpu", "--threads", "1", "--out", tmp_path, *(["--batch", batch] if batch else [])]
    code, out, _ = run_script("benchmark", "sampling", *argv)
    assert code == 0 and asked == [batch and int(batch)] and out[0].endswith(said)
