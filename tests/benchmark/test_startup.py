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
    code = f"{startup.FLOOR}; import sys; print({{'torch', 'open_clip'}} <= set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
