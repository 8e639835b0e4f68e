import io
import json

import pytest
from data.pictures import captioned_tar
from PIL import Image

from unclip.benchmark import data
from unclip.benchmark.sides import ours_batches


@pytest.mark.parametrize("workers", [None, 1])
def test_batches_of_both_ways(tmp_path, monkeypatch, workers):
    captioned_tar(tmp_path / "0.tar", range(6))
    seen = {"table": [], "stream": []}
    for name, kind in (("table", ours_batches.TableBatches), ("stream", ours_batches.StreamBatches)):
        at = kind.at
        monkeypatch.setattr(kind, "at", lambda self, step, at=at, name=name: seen[name].append(step) or at(self, step))
    take, _ = ours_batches.build(str(tmp_path), size=8, batch=4, batches=2, workers=workers, threads=1)
    take(), take()
    assert seen == ({"table": [0, 1, 2, 3], "stream": []} if workers is None else {"table": [], "stream": [0, 1, 2, 3]})


def test_ways_for_every_core(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "Side", lambda file, spec: asked.append(spec))
    monkeypatch.setattr(data, "in_turn", lambda sides, rounds, say: {name: make() for name, make in sides.items()})
    measured = data.measure("a/folder", cores=5, rounds=1)
    assert list(measured) == ["from memory", *(f"streamed, processes: {n}" for n in (1, 2, 4))]
    assert [spec["workers"] for spec in asked] == [None, 1, 2, 4] and {spec["folder"] for spec in asked} == {"a/folder"}


def test_what_is_made_up_are_pictures_that_differ(monkeypatch):
    monkeypatch.setattr(data, "PICTURES", 3)
    made = list(data.pictures())
    assert len({sample["__key__"] for sample in made}) == len({sample["jpg"] for sample in made}) == 3
    assert {Image.open(io.BytesIO(sample["jpg"])).size for sample in made} == {(256, 256)}


def test_the_rate_is_pictures_by_seconds(run_script, monkeypatch, tmp_path):
    captioned_tar(tmp_path / "shards" / "0.tar", range(6))
    runs = [{"seconds": s, "parts": {}, "peak_bytes": None} for s in (1.0, 2.0, 4.0)]
    asked = []
    monkeypatch.setattr(data, "measure", lambda *args: asked.append(args) or {"from memory": {"parameters": 0, "runs": runs}})
    code, out, _ = run_script("benchmark", "data", "--rounds", "3", "--data", tmp_path / "shards", "--out", tmp_path / "out")
    paths = [tmp_path / "out" / "data.json", tmp_path / "out" / "data.md"]
    assert code == 0 and out[-2:] == [str(path) for path in paths]
    assert asked == [(str(tmp_path / "shards"), json.loads(paths[0].read_text())["machine"]["cores"], 3)]
    assert out[-3] == "| from memory | 2,560 (1,280 to 5,120) |"


def test_a_folder_without_shards_is_refused(run_script, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "measure", lambda *args: pytest.fail("measured"))
    code, _, err = run_script("benchmark", "data", "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert code == 2 and err == [f"error: no data folder {tmp_path / 'none'}: make one with scripts/prepare_data.py"]
