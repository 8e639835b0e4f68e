"""Shards at URLs, of servers that fail, and shards that a command writes."""

import re

import pytest

from unclip.data.remote import is_remote, remote_shards, shard_name
from unclip.data.shards import find_shards, read_samples
from unclip.data.skipped import Skipped
from unclip.data.stream import StreamBatches
from unclip.errors import UserError

from .pictures import Lines, captioned_tar
from .servers import serving


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("unclip.data.remote.TIMEOUT", 0.3)
    monkeypatch.setattr("unclip.data.remote.WAITS", (0.01, 0.01, 0.01, 0.01))


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        captioned_tar(tmp_path / f"{shard}.tar", range(20 * shard, 20 * shard + 20))
    return tmp_path


def keys(*numbers):
    return [f"{n:04d}" for n in numbers]


def read(shard):
    skipped = Skipped()
    return [sample["__key__"] for sample in read_samples([shard], skipped)], skipped


def test_a_shard_at_a_url_is_read_as_from_a_disk(folder):
    with serving(folder) as (url, requests):
        found = list(read_samples(remote_shards(url + "/{0..2}.tar"), Skipped()))
    expected = list(read_samples(find_shards(folder, "train"), Skipped()))
    assert found == [{**sample, "__url__": f"{url}/{sample['__url__'][-5:]}"} for sample in expected]
    assert requests == [("0.tar", 0), ("1.tar", 0), ("2.tar", 0)]


@pytest.mark.parametrize("ways", [["half"], ["half", "half"], ["stall"], ["stall", 500, "half"], [503, 429]])
def test_a_transfer_that_fails_goes_on_where_it_was(folder, ways):
    with serving(folder, {"0.tar": ways}) as (url, requests):
        found, skipped = read(f"{url}/0.tar")
    assert found == keys(*range(20)) and skipped.count == 0 and len(requests) == len(ways) + 1
    size, sent = (folder / "0.tar").stat().st_size, 0
    for way, (name, first) in zip([*ways, "whole"], requests):
        assert name == "0.tar" and sent - 10240 < first <= sent  # the last piece may have come in part
        sent = first + (size - first) // 2 if way in ("half", "stall") else first


@pytest.mark.parametrize("status, tries", [(500, 5), (404, 1), (403, 1)])
def test_what_is_not_to_be_had_is_skipped_and_counted(folder, status, tries):
    with serving(folder, {"1.tar": [status] * 9}) as (url, requests):
        skipped = Skipped()
        found = [s["__key__"] for s in read_samples(remote_shards(url + "/{0..2}.tar?key=secret"), skipped)]
    assert found == keys(*range(20), *range(40, 60)) and skipped.counts == {"source": 1}
    assert skipped.first.startswith(f"1.tar: HTTP Error {status}") and "secret" not in skipped.table()
    assert [name for name, _ in requests] == ["0.tar", *["1.tar"] * tries, "2.tar"]


@pytest.mark.parametrize("ways", [["half", "whole file"], ["half", *[500] * 9], ["stall", *["whole file"] * 9]])
def test_where_it_cannot_go_on_the_rest_is_skipped(folder, ways):
    with serving(folder, {"0.tar": ways}) as (url, requests):
        found, skipped = read(f"{url}/0.tar")
    assert found in (keys(*range(n)) for n in (10, 11, 12))  # of twelve, half of the file has picture and caption
    assert skipped.counts["source"] == 1 and set(skipped.counts) <= {"source"}


def test_no_server_is_there(folder):
    with serving(folder) as (url, _):
        pass
    found, skipped = read(f"{url}/0.tar")
    assert found == [] and skipped.counts == {"source": 1} and "refused" in skipped.first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_past_a_shard_that_is_not_to_be_had(folder, workers):
    lines = Lines()
    with serving(folder, {"1.tar": [500] * 10_000, "0.tar": ["half"] * 3}) as (url, _):
        batches = StreamBatches(remote_shards(url + "/{0..2}.tar"), 8, 5, 0, workers=workers, say=lines)
        seen = {key for step in range(24) for key in batches.at(step)["key"]}
        state, expected = batches.state(), batches.at(24)["key"]
        resumed = StreamBatches(remote_shards(url + "/{0..2}.tar"), 8, 5, 0, workers=workers, say=lines)
        resumed.load(state)
        assert resumed.at(24)["key"] == expected
        del batches, resumed  # their workers ask the server
    assert seen == set(keys(*range(20), *range(40, 60)))
    assert "1 source (first: 1.tar: HTTP Error 500" in lines[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("max_bad, tries", [(0.1, 11), (1.0, None)])
def test_a_server_that_dies_is_said_at_once_and_ends_the_run_soon(folder, workers, max_bad, tries):
    """Though no batch comes any more: of a hundred shards not all are tried, and some lines are said on the way."""
    for shard in range(100):
        captioned_tar(folder / f"{shard:03d}.tar", range(2))
    lines, steps = Lines(), 0
    with serving(folder) as (url, requests):
        batches = StreamBatches(remote_shards(url + "/{000..099}.tar"), 8, 2, 0, workers=workers, max_bad=max_bad, say=lines)
        batches.at(0)
        for shard in range(100):
            (folder / f"{shard:03d}.tar").unlink()
        with pytest.raises(UserError) as error:
            for steps in range(1, 50):
                batches.at(steps)
    said = [int(re.search(r"(\d+) source", line)[1]) for line in lines]
    assert steps < 25 and said[:4] == [1, 2, 4, 8] and "HTTP Error 404" in lines[0]
    if tries is None:
        assert "nothing readable in the shards (0" in str(error.value) and len(said) < 12
    else:
        assert str(error.value).startswith("11 of the last") and len(said) == 4


# ---- commands --------------------------------------------------------------------------------------------------------

def test_what_a_command_writes_is_a_shard(folder):
    shards = remote_shards(f"pipe:cat {folder}/{{0..2}}.tar")
    assert [shard_name(s) for s in shards] == ["0.tar", "1.tar", "2.tar"]
    assert [s["__key__"] for s in read_samples(shards, Skipped())] == keys(*range(60))
    found, skipped = read("pipe:cat nothing.tar 2>/dev/null")
    assert found == [] and skipped.count == 1
    next(read_samples(shards, Skipped()))  # and nobody reads the rest


def test_s3_is_read_by_its_own_command(folder, monkeypatch):
    command = folder / "bin" / "aws"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && cat "{folder}/${{3#s3://bucket/}}"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    assert [s["__key__"] for s in read_samples(remote_shards("s3://bucket/{0..1}.tar"), Skipped())] == keys(*range(40))


# ---- names -----------------------------------------------------------------------------------------------------------

def test_braces_stand_for_numbers_and_names():
    assert remote_shards("https://a.b/{08..11}.tar") == [f"https://a.b/{n:02d}.tar" for n in range(8, 12)]
    assert remote_shards("s3://a/{x,y}/0.tar::s3://b/1.tar") == ["s3://a/x/0.tar", "s3://a/y/0.tar", "s3://b/1.tar"]
    with pytest.raises(UserError, match="write it like HOST"):
        remote_shards("https://a.b/{0..9.tar")


@pytest.mark.parametrize("shard, name", [
    ("https://a.b/c/00001.tar", "00001.tar"), ("http://a.b/00001.tar?key=x/y", "00001.tar"), ("https://a.b/c", "c"),
    ("s3://a/b/0.tar", "0.tar"), ("pipe:curl -s 'http://a.b/7.tar?k=1' | gzip -d", "7.tar"), ("a b/0 1.tar", "0 1.tar"),
])  # fmt: skip
def test_a_shards_name_says_nothing_secret(shard, name):
    assert shard_name(shard) == name


@pytest.mark.parametrize("folder, remote", [("http://a/b", True), ("s3://a", True), ("pipe:x", True), ("data/http", False)])
def test_what_is_remote(folder, remote):
    assert is_remote(folder) is remote
    if remote:
        with pytest.raises(UserError, match="fetch the shards"):
            find_shards(folder, "train")
