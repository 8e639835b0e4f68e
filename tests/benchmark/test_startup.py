import json
import subprocess
import sys

import pytest

from unclip.benchmark import startup
from unclip.errors import UserError


def test_the_commands_take_turns_and_the_first_round_is_not_kept(monkeypatch):
    ran = []
    monkeypatch.setattr(startup, "seconds", lambda command: ran.append(command) or len(ran))
    assert startup.measure(2) == {"import torch, open_clip": [4, 7], "1 picture": [5, 8], "16 pictures": [6, 9]}
    assert ran[:3] * 3 == ran
    assert [command[-1] for command in ran[1:3]] == ["1", "16"]


def test_a_command_that_fails_ends_in_one_line():
    with pytest.raises(UserError, match="ended: what went wrong$"):
        startup.seconds([sys.executable, "-c", "import sys; sys.exit('before\\nwhat went wrong')"])


def test_the_floor_imports_both():
    code = f"{startup.IMPORTS}; import sys; print({{'torch', 'open_clip'}} <= set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_what_is_written_has_the_difference_in_the_same_round(run_script, monkeypatch, tmp_path):
    """1, 4 and 2 more than the imports: the median is 2, where the medians are 4 apart."""
    measured = {"import torch, open_clip": [2.0, 4.0, 8.0], "1 picture": [3.0, 8.0, 10.0], "16 pictures": [4.0, 3.0, 9.0]}
    asked = []
    monkeypatch.setattr(startup, "measure", lambda rounds: asked.append(rounds) or measured)
    code, out, _ = run_script("benchmark", "startup", "--rounds", "3", "--out", tmp_path)
    paths = [tmp_path / "startup.json", tmp_path / "startup.md"]
    assert code == 0 and asked == [3] and out[-2:] == [str(path) for path in paths]
    assert json.loads(paths[0].read_text())["measured"] == measured
    assert paths[1].read_text().splitlines() == out[:-2] and out[0].endswith("; rounds 3")
    assert out[-5:-2] == [
        "| import torch, open_clip | 4.00 (2.00 to 8.00) |  |",
        "| 1 picture | 8.00 (3.00 to 10.00) | +2.00 (+1.00 to +4.00) |",
        "| 16 pictures | 4.00 (3.00 to 9.00) | +1.00 (-1.00 to +2.00) |",
    ]
