"""The comparisons behind the script, with made-up measurements."""

import json

import pytest

from unclip.benchmark import sampling, training

RUN = {"seconds": 2.0, "parts": {}, "peak_bytes": None}
SIDES = {name: {"parameters": 1_000_000, "runs": [RUN, RUN]} for name in ("theirs", "unclip")}
PEER = ["--peer-python", "peer/bin/python"]


@pytest.mark.parametrize("what, module, found, passed, work", [
    ("sampling", sampling, SIDES, (2, 3, "bfloat16"), "sampling"),
    ("training", training, {"prior": SIDES}, (2, 3, "bfloat16", "peer/bin/python"), "prior"),
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
