"""What no reader of this project may do. What each may not is tested beside it; tests/fuzz feeds them with nonsense."""

import re
from pathlib import Path

import pytest

import unclip
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
