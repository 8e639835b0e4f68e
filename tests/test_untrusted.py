"""What no reader of this project may do. What each may not is tested beside it; tests/fuzz feeds them with nonsense."""

import gzip
import re
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from data.pictures import png, write_tar

import unclip
from unclip.data.shards import find_shards, read_samples
from unclip.data.skipped import Skipped
from unclip.errors import UserError

PACKAGE = Path(unclip.__file__).parent
SOURCES = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "scripts").glob("*.py")]
RUNS_CODE = [
    r"pickle\.(load|loads|Unpickler)\b", r"\bdill\b", r"\bjoblib\b", r"\bshelve\b", r"\bmarshal\b",
    r"allow_pickle\s*=\s*True", r"\bnp\.load\b",
    r"yaml\.(load|unsafe_load|full_load|load_all|Loader|FullLoader|UnsafeLoader)\b",
    r"(?<![\w.])(eval|exec)\(", r"weights_only\s*=\s*False",
    r"trust_remote_code\s*=\s*True", r"\bextractall\b", r"shell\s*=\s*True", r"os\.system",
]  # fmt: skip


@pytest.mark.parametrize("pattern", RUNS_CODE)
def test_nothing_that_is_read_can_run(pattern):
    lines = [(f.name, line.strip()) for f in SOURCES for line in f.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in lines if re.search(pattern, line[1])]


def test_pickles_are_read_as_data_and_by_the_import_alone():
    """Karlo's own checkpoints come in no other form."""
    calls = [(f.name, line) for f in SOURCES for line in f.read_text(encoding="utf-8").splitlines() if "torch.load(" in line]
    assert [name for name, _ in calls] == ["tensors.py"] and "weights_only=True" in calls[0][1]


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J\x1b]0;title\x07", "\u202egnp.exe", "\udcff", "\x00", "x" * 10**6])
def test_a_line_for_the_user_is_one_and_no_command_to_the_terminal(text):
    line = str(UserError(f"the file {text} is damaged"))
    assert line.isprintable() and line.encode() and len(line) < 2000


def test_a_line_that_prints_stays_as_it_is():
    line = "caf\u00e9 \U0001f600: copy it again; \"x\" and 'y' (did you mean \\:?)"
    assert str(UserError(line)) == line


# ---- shards ----------------------------------------------------------------------------------------------------------

def test_a_shards_name_is_no_command(tmp_path, monkeypatch):
    """In a stranger's folder, named as it is from inside."""
    write_tar(tmp_path / "0.tar", [("a.png", png(1)), ("a.txt", b"a")])
    (tmp_path / "0.tar").rename(tmp_path / "pipe:touch PWNED #.tar")
    write_tar(tmp_path / "1.tar", [("b.png", png(2)), ("b.txt", b"b")])
    monkeypatch.chdir(tmp_path)
    shards = find_shards(".", "train")
    assert [sample["__key__"] for sample in read_samples(shards, Skipped())] == ["b"]
    assert not (tmp_path / "PWNED").exists()


def test_what_a_shard_claims_takes_no_memory(tmp_path):
    """A sparse file of eight gigabytes in a block, and a compressed shard: counted, and gone on behind."""
    sparse = tarfile.TarInfo("a.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"7" * 11 + b"\0"  # its size when it is unpacked
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * ord(" ") + sum(block[156:512]))
    behind = write_tar(tmp_path / "behind.tar", [("b.png", png(2)), ("b.txt", b"b")]).read_bytes()
    (tmp_path / "0.tar").write_bytes(bytes(block) + behind)
    with gzip.open(tmp_path / "1.tar", "wb") as file:
        file.write(behind)
    skipped = Skipped()
    tracemalloc.start()
    assert [sample["__key__"] for sample in read_samples([tmp_path / "0.tar", tmp_path / "1.tar"], skipped)] == ["b"]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert skipped.counts == {"too large": 1, "shard cut off": 1}
