import hashlib

import pytest
import torch
from safetensors import safe_open

from unclip.data import beside
from unclip.data.beside import checksum, describe, file_bytes, read_beside, write_beside


@pytest.fixture
def files(tmp_path):
    """A shard of 100 bytes, and a file beside it with two rows."""
    shard, file = tmp_path / "0.tar", tmp_path / "0.fp.safetensors"
    shard.write_bytes(bytes(100))
    write_beside(shard, file, ["a", "b"], {"x": torch.arange(6).half().view(2, 3), "y": torch.ones(2)}, "bfloat16")
    return shard, file


def test_what_is_written_is_read(files):
    keys, tensors = read_beside(*files)
    assert keys == ["a", "b"] and set(tensors) == {"x", "y"}
    assert tensors["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and tensors["x"].dtype == torch.float16


def test_the_same_content_is_the_same_file(files):
    """Whatever order safetensors writes its metadata in, and whatever signs stand in keys."""
    shard, file = files
    keys, tensors = ['a"\\', "\n\x7f\x01", "é", "\U0001f600"], {name: torch.ones(4, 2) for name in "zyx"}
    contents = set()
    for _ in range(8):
        write_beside(shard, file, keys, tensors, "float32")
        contents.add(file.read_bytes())
    assert len(contents) == 1 and read_beside(shard, file)[0] == keys


def test_what_a_manifest_says_of_a_file(files):
    """As safetensors reads the header, and as its format lays it out: 8 bytes of length before it, the tensors behind."""
    shard, file = files
    said, content = describe(file, "x"), file.read_bytes()
    header = content[: len(content) - 2 * 3 * 2 - 2 * 4]
    assert said["sha256"] == hashlib.sha256(header).hexdigest()
    assert checksum(file) == {"bytes": len(content), "sha256": said["sha256"]}
    assert (said["rows"], said["shard_bytes"], said["bytes"]) == (2, 100, len(content))
    with safe_open(file, "pt") as opened:
        assert said["computed_in"] == opened.metadata()["computed_in"] == "bfloat16"


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 50, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}", None])
def test_what_is_no_such_file_is_refused(files, content):
    shard, file = files
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    assert read_beside(shard, file) is None
    with pytest.raises(ValueError):
        describe(file, "x")


@pytest.mark.parametrize("rows, keys", [(0, []), (3, ["a", "b", "c"]), (11, [f"{n:09d}" for n in range(11)])])
def test_the_size_of_a_file_is_known_before(tmp_path, rows, keys):
    shard, file = tmp_path / "0.tar", tmp_path / "0.fp.safetensors"
    shard.write_bytes(bytes(12345))
    write_beside(shard, file, keys, {"x": torch.zeros(rows, 5).half(), "n": torch.zeros(rows, dtype=torch.int32)}, "float32")
    shapes = {"x": ("F16", 2, (rows, 5)), "n": ("I32", 4, (rows,))}
    assert file_bytes(shapes, keys, 12345, "float32") == file.stat().st_size


def test_no_more_is_read_of_a_header_than_one_has(tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "LONGEST", 100)
    (tmp_path / "x").write_bytes((2**60).to_bytes(8, "little") + bytes(5000))
    assert beside.read_header(tmp_path / "x") == ((2**60).to_bytes(8, "little") + bytes(100), 5008)
    with pytest.raises(ValueError):
        describe(tmp_path / "x", "embed")
