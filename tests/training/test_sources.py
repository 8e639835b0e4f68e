"""Trainings on shards at URLs."""

import json

import pytest
from conftest import CLIP_CONFIG, SIDE
from data.pictures import captioned_tar, write_tar
from data.servers import serving

from unclip.errors import UserError
from unclip.training import runs
from unclip.training.config import RunConfig
from unclip.training.sources import Source

from .conftest import OPTIMIZER, write_config


@pytest.fixture
def url(tmp_path, monkeypatch):
    """Three shards of twenty captioned pictures, at a URL."""
    monkeypatch.setattr("unclip.data.remote.WAITS", (0.01,))
    for shard in range(3):
        captioned_tar(tmp_path / "shards" / f"{shard}.tar", range(20 * shard, 20 * shard + 20))
    with serving(tmp_path / "shards", {"0.tar": ["half"]}) as (url, _):
        yield url


def source(folder, clip=None, val_samples=8, **data):
    data = {"folder": folder, "image_size": 8, "workers": 0, **data}
    train = {"run": "none", "batch_size": 5, "steps": 1, "val_samples": val_samples}
    lines = []
    return Source(RunConfig(data=data, optimizer=OPTIMIZER, train=train), clip, dict, lines.append), lines


def test_the_last_shard_is_held_out_and_the_others_are_streamed(url):
    pictures, lines = source(url + "/{0..2}.tar")
    assert pictures.table is None and pictures.words() is None
    assert pictures.val_table.keys == [f"{n:04d}" for n in range(40, 48)] and pictures.val_table.captions[0] == ["picture 40"]
    batches = pictures.training()
    seen = [key for step in range(8) for key in batches.at(step)["key"]]
    assert sorted(seen) == [f"{n:04d}" for n in range(40)] and batches.state()["places"] == [[0, 1, 20]]
    assert lines[0].endswith("2.tar is held out for validation")
    assert lines[1] == "2 shards from afar, streamed, to train on, 8 to validate on, 8x8"


@pytest.mark.parametrize("shards, options, says", [
    ("{0..2}.tar", {"clip": object()}, "CLIP's embeddings are kept beside shards: fetch these to a folder"),
    ("{0..2}.tar", {"in_memory": True}, "leave data.in_memory=true out"),
    ("{0..2}.tar", {"best": 0.5}, "data.best is for sets in memory"),
    ("{0..2}.tar", {"repeat": {"dog": 2}}, "data.repeat is for labelled sets in memory"),
    ("0.tar", {}, "a second shard to validate on"),
    ("{7..9}.tar", {}, "9.tar: HTTP Error 404"),
    ("{0..9.tar", {}, "write it like HOST"),
])  # fmt: skip
def test_what_a_url_does_not_offer_ends_in_a_line(url, shards, options, says):
    with pytest.raises(UserError) as error:
        source(f"{url}/{shards}", **options)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_labels_at_a_url_end_in_a_line(url, tmp_path):
    write_tar(tmp_path / "shards" / "2.tar", [("0.png", b"x"), ("0.cls", b"1")])
    with pytest.raises(UserError, match="nothing readable in .*2.tar"):
        source(url + "/{0..2}.tar")


def test_the_share_of_bad_samples_holds_for_what_is_in_memory_and_what_is_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr("unclip.data.skipped.ENOUGH", 20)
    for shard in range(3):
        captioned_tar(tmp_path / f"{shard}.tar", range(20))
    write_tar(tmp_path / "0.tar", [(f"{n}.txt", b"x") for n in range(20)])
    for in_memory in (True, False):
        pictures, _ = source(str(tmp_path), in_memory=in_memory, max_bad=0.9)
        pictures.training().at(0)
        with pytest.raises(UserError, match="more than data.max_bad=0.1 allows.* 20 no picture"):
            batches = source(str(tmp_path), in_memory=in_memory)[0].training()
            for step in range(20):
                batches.at(step)


def test_a_clip_is_trained_on_shards_at_a_url(url, tmp_path):
    runs.train_clip(write_config(tmp_path / "clip.yaml", {
        "data": {"folder": url + "/{0..2}.tar", "image_size": 2 * SIDE, "workers": 1},
        "model": {"architecture": CLIP_CONFIG}, "optimizer": OPTIMIZER,
        "train": {"run": str(tmp_path / "run"), "batch_size": 4, "steps": 2, "precision": "no", "val_samples": 8},
    }, {}))  # fmt: skip
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text())["step"] == 2
    assert (tmp_path / "run" / "clip" / "open_clip_model.safetensors").is_file()
