import io
import json

import pytest
from data.pictures import captioned_tar
from PIL import Image

from unclip.benchmark import data
from unclip.benchmark.sides import ours_batches
from unclip.data.stream import AHEAD


@pytest.mark.parametrize("workers", [None, 1])
def test_batches_of_both_ways(tmp_path, monkeypatch, workers):
    captioned_tar(tmp_path / "0.tar", range(6))
    seen = {"table": [], "stream": []}
    for name, kind in (("table", ours_batches.TableBatches), ("stream", ours_batches.StreamBatches)):
        at = kind.at
        monkeypatch.setattr(kind, "at", lambda self, step, at=at, name=name: seen[name].append(step) or at(self, step))
    take, _ = ours_batches.build(str(tmp_path), size=8, batch=4, batches=2, workers=workers, threads=1)
    taken = take(), take()
    assert all(parts["batches"] > 0 for parts in taken)
    count = 4 if workers is None else 4 + 2 * AHEAD
    assert {name: steps for name, steps in seen.items() if steps} == {"table" if workers is None else "stream": list(range(count))}


def test_ways_for_every_core(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "Side", lambda file, spec: asked.append(spec))
    monkeypatch.setattr(data, "in_turn", lambda sides, rounds, say: {name: make() for name, make in sides.items()})
    measured = data.measure("a/folder", size=16, cores=5, rounds=1)
    assert list(measured) == ["from memory", *(f"streamed, processes: {n}" for n in (1, 2, 4))]
    assert [spec["workers"] for spec in asked] == [None, 1, 2, 4] and {(spec["folder"], spec["size"]) for spec in asked} == {("a/folder", 16)}


def test_what_is_made_up_are_pictures_that_differ(monkeypatch):
    monkeypatch.setattr(data, "PICTURES", 3)
    made = list(data.pictures())
    assert len({sample["__key__"] for sample in made}) == len({sample["jpg"] for sample in made}) == 3
    assert {Image.open(io.BytesIO(sample["jpg"])).size for sample in made} == {(64, 64)}


def test_the_rate_is_pictures_by_seconds(run_script, monkeypatch, tmp_path):
    captioned_tar(tmp_path / "shards" / "0.tar", range(6))
    runs = [{"seconds": 9.0, "parts": {"batches": s}, "peak_bytes": None} for s in (1.0, 2.0, 4.0)]
    asked = []
    monkeypatch.setattr(data, "measure", lambda *args: asked.append(args) or {"from memory": {"parameters": 0, "runs": runs}})
    code, out, _ = run_script("benchmark", "data", "--rounds", "3", "--data", tmp_path / "shards", "--out", tmp_path / "out")
    paths = [tmp_path / "out" / "data.json", tmp_path / "out" / "data.md"]
    assert code == 0 and out[-2:] == [str(path) for path in paths]
    assert asked == [(str(tmp_path / "shards"), 32, json.loads(paths[0].read_text())["machine"]["cores"], 3)]
    assert out[-3] == "| from memory | 4,096 (2,048 to 8,192) |"


def test_a_folder_without_shards_is_refused(run_script, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "measure", lambda *args: pytest.fail("measured"))
    code, _, err = run_script("benchmark", "data", "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert code == 2 and err == [f"error: no data folder {tmp_path / 'none'}: make one with scripts/prepare_data.py"]
