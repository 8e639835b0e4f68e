import json
import os
import tarfile

import pytest

from unclip.data.shards import estimated_samples, find_shards, read_samples, write_shards
from unclip.data.skipped import Skipped
from unclip.data.table import load_table
from unclip.errors import UserError

from .pictures import Lines, captioned_tar, write_tar


def samples(count):
    return [{"__key__": f"{n:03d}", "jpg": bytes([n]), "txt": str(n).encode()} for n in range(count)]


def test_written_shards_are_read_in_order(tmp_path):
    assert write_shards(samples(25), tmp_path / "train", 10) == 25
    assert (tmp_path / "train" / "nshards.txt").read_text() == "3\n"
    shards = find_shards(tmp_path, "train")
    assert [s.name for s in shards] == ["0.tar", "1.tar", "2.tar"]
    skipped = Skipped()
    read = list(read_samples(shards, skipped))
    assert [(s["__key__"], s["jpg"], s["txt"]) for s in read] == [tuple(s.values()) for s in samples(25)]
    assert skipped.count == 0


def test_shard_10_comes_after_shard_9(tmp_path):
    write_shards(samples(11), tmp_path / "train", 1)
    assert [s.name for s in find_shards(tmp_path, "train")] == [f"{n}.tar" for n in range(11)]


def test_interrupted_writing_keeps_what_was_there(tmp_path):
    write_shards(samples(3), tmp_path / "train")

    def broken():
        yield samples(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(broken(), tmp_path / "train")
    assert len(list(read_samples(find_shards(tmp_path, "train"), Skipped()))) == 3
    assert os.listdir(tmp_path) == ["train"]


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no readable pictures"):
        write_shards([], tmp_path / "train")
    assert os.listdir(tmp_path) == []


def test_a_shard_cut_off_gives_what_stands_before_the_cut(tmp_path):
    cut, whole = captioned_tar(tmp_path / "0.tar", range(10)), captioned_tar(tmp_path / "1.tar", range(10, 14))
    entry = 6 * 512  # png, txt and json of a sample, a header and a block each
    cut.write_bytes(cut.read_bytes()[: 4 * entry + 512 + 20])  # into the fifth picture
    lines = Lines()
    table = load_table(tmp_path, "train", 8, lines)
    assert table.keys == [f"{n:04d}" for n in [0, 1, 2, 3, 10, 11, 12, 13]]
    assert len(lines) == 1 and "skipped" in lines[0] and "0.tar" in lines[0] and "unexpected end" in lines[0]


def test_an_empty_shard_is_reported_and_passed_over(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"")
    captioned_tar(tmp_path / "1.tar", range(2))
    lines = Lines()
    assert len(load_table(tmp_path, "train", 8, lines)) == 2
    assert len(lines) == 1 and "0.tar" in lines[0]


def test_keys_are_unique_within_a_shard(tmp_path):
    shard = write_tar(tmp_path / "0.tar", [("a.txt", b"1"), ("b.txt", b"2"), ("a.txt", b"3")])
    other = write_tar(tmp_path / "1.tar", [("b.txt", b"4")])
    skipped = Skipped()
    read = [(s["__key__"], s["txt"]) for s in read_samples([shard, other], skipped)]
    assert read == [("a", b"1"), ("b", b"2"), ("b", b"4")]
    assert skipped.count == 1 and "second sample has the key a" in skipped.first


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="no data folder"):
        find_shards(tmp_path / "none", "train")
    with pytest.raises(UserError, match="no .tar shards"):
        find_shards(tmp_path, "train")
    captioned_tar(tmp_path / "train" / "0.tar", range(2))
    with pytest.raises(UserError, match="no split 'tset': it has train"):
        find_shards(tmp_path, "tset")


def test_number_of_samples_is_estimated(tmp_path):
    shards = [captioned_tar(tmp_path / f"{n:05d}.tar", range(20)) for n in range(3)]
    assert estimated_samples(shards) == pytest.approx(60, abs=3)
    for n, shard in enumerate(shards):
        shard.with_name(f"{shard.stem}_stats.json").write_text(json.dumps({"successes": 7 + n}))
    assert estimated_samples(shards) == 7 + 8 + 9


@pytest.mark.parametrize("said", ['{"successes": 1e999}', '{"successes": "x"}', "[1]", '{"successes": 1', "\xff"])
def test_statistics_that_are_none_are_passed_over(tmp_path, said):
    shard = captioned_tar(tmp_path / "0.tar", range(20))
    shard.with_name("0_stats.json").write_bytes(said.encode("latin-1"))
    assert estimated_samples([shard]) == 20


def said_of_a_file(kind, content):
    """What a tar may say of the file that comes next: the bytes of an entry of its own."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, len(content)
    return entry.tobuf(tarfile.USTAR_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")


@pytest.mark.parametrize("kind, content, says", [
    (tarfile.GNUTYPE_LONGNAME, b"a" * 1_000_000, "has 1,000,000 bytes"), (tarfile.XHDTYPE, b"1" * 50_000, "has 50,000 bytes"),
    (tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", ""),
    (tarfile.XHDTYPE, b"99999999999999999999 a=b\n", ""),
])  # fmt: skip
def test_what_a_tar_says_of_a_file_is_bounded_and_may_be_wrong(tmp_path, kind, content, says):
    shard, skipped = captioned_tar(tmp_path / "0.tar", range(3)), Skipped()
    whole = shard.read_bytes()
    end = tarfile.open(shard).getmembers()[-1]
    place = end.offset_data + 512
    shard.write_bytes(whole[:place] + said_of_a_file(kind, content) + whole[place:])
    assert len(list(read_samples([shard], skipped))) == 3
    assert skipped.counts == {"shard cut off": 1} and says in skipped.first
    assert estimated_samples([shard]) == 3


def test_a_long_name_is_read(tmp_path):
    shard = write_tar(tmp_path / "0.tar", [(f"{'a' * 300}/1.png", b"x")])
    assert [sample["__key__"] for sample in read_samples([shard], Skipped())] == ["a" * 300 + "/1"]
