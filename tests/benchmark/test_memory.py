import json

import pytest
from PIL import Image

from unclip.benchmark import memory, turns
from unclip.benchmark.worker import STATUS

linux = pytest.mark.skipif(not STATUS.is_file(), reason="reads Linux's /proc")


@linux
def test_checkpointing_holds_less_at_the_peak(monkeypatch, run_script, tmp_path):
    """With the model that ships. Each peak is of its own process: the second would not be below the first in one."""
    monkeypatch.setattr(memory, "BATCHES", (32,))
    code, out, err = run_script("benchmark", "memory", "--rounds", "1", "--threads", "1", "--device", "cpu", "--out", tmp_path)
    assert code == 0, err
    paths = [tmp_path / f"memory.{kind}" for kind in ("json", "md", "png")]
    assert out[-3:] == [str(path) for path in paths] and out[:-3] == paths[1].read_text().splitlines()
    plain, checkpointed = json.loads(paths[0].read_text())["measured"]["32"].values()
    assert checkpointed["runs"][0]["peak_bytes"] < plain["runs"][0]["peak_bytes"] - 50e6
    assert checkpointed["parameters"] == plain["parameters"] > 1e6
    rows = [line.split(" | ")[:2] for line in out if line.startswith("| a step")]
    assert rows == [["| a step of 32 pictures", name] for name in ("plain", "checkpointed")]


def test_every_batch_is_measured_both_ways(monkeypatch):
    begun = []

    class Side:
        parameters = 5

        def __init__(self, file, spec):
            begun.append(spec)
            self.batch = spec["batch"]

        def __call__(self):
            return {"seconds": 1.0, "parts": {}, "peak_bytes": self.batch}

        def close(self):
            pass

    monkeypatch.setattr(memory, "Side", Side)
    measured = memory.measure("a/decoder", rounds=2, threads=3, device="cpu")
    same = {"folder": "a/decoder", "threads": 3, "device": "cpu"}
    assert begun == [{**same, "batch": n, "checkpointed": both} for n in (32, 64, 128, 256) for both in (False, True)]
    assert {n: [run["peak_bytes"] for run in sides["plain"]["runs"]] for n, sides in measured.items()} == {
        n: [n, n] for n in (32, 64, 128, 256)}  # fmt: skip


def test_what_the_curves_show(monkeypatch, tmp_path):
    """Peaks in GB over the batch, a curve each."""
    summaries = {n: {"plain": {"peak_bytes": n * 1e9}, "checkpointed": {"peak_bytes": n * 5e8}} for n in (2, 4)}
    drawn, save = [], memory.save_figure
    monkeypatch.setattr(memory, "save_figure", lambda path, size, draw, *rest: save(
        path, size, lambda figure: (draw(figure), drawn.extend(figure.axes[0].lines)), *rest))  # fmt: skip
    assert memory.plot(tmp_path / "memory.png", "a machine", summaries) == [tmp_path / "memory.png"]
    assert {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn} == {
        "plain": ([2, 4], [2, 4]), "checkpointed": ([2, 4], [1, 2])}  # fmt: skip
    with Image.open(tmp_path / "memory.png") as image:
        assert image.format == "PNG"


@linux
def test_a_step_that_does_not_end_is_said(monkeypatch, run_script, tmp_path):
    monkeypatch.setattr(turns.sys, "executable", "/bin/false")
    why = "for want of memory as a rule: ours_checkpointing.py ended: code 1, without a word"
    code, out, err = run_script("benchmark", "memory", "--out", tmp_path)
    assert (code, out) == (2, []) and err[-1] == f"error: a step of 32 pictures did not end, {why}"
    assert not any(tmp_path.iterdir())


def test_a_system_without_proc(monkeypatch, run_script, tmp_path):
    monkeypatch.setattr(memory, "peak_bytes", lambda device: None)
    code, _, err = run_script("benchmark", "memory", "--out", tmp_path)
    assert code == 2 and err == [f"error: peaks of memory are read from {STATUS}, which this system has not: measure on Linux"]
