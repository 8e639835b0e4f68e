"""Sides of made-up work: files in a folder of the test's."""

import json
import sys

import pytest

from unclip.benchmark import turns
from unclip.benchmark.turns import Side, in_turn
from unclip.benchmark.worker import STATUS
from unclip.errors import UserError


@pytest.fixture
def side(tmp_path, monkeypatch):
    """Writes a side's file and gives what begins it."""
    (tmp_path / "sides").mkdir()
    (tmp_path / "worker.py").write_text((turns.HERE / "worker.py").read_text())
    monkeypatch.setattr(turns, "HERE", tmp_path)

    def write(name, body):
        (tmp_path / "sides" / name).write_text(body)
        return lambda python=None: Side(name, {"threads": 1, "log": str(tmp_path / "log")}, python)

    return write


NOTING = """
import time
def build(threads, log):
    print("what libraries print")
    def work():
        with open(log, "a") as file:
            file.write("{name}")
        time.sleep({seconds})
        return {{"part": 7.0}}
    return work, {parameters}
"""


def test_sides_run_in_turn_and_the_first_runs_do_not_count(side, tmp_path):
    sides = {name: side(f"{name}.py", NOTING.format(name=name, seconds=seconds, parameters=parameters))
             for name, seconds, parameters in (("a", 0.02, 5), ("b", 0.0, 6))}  # fmt: skip
    measured = in_turn(sides, rounds=3, say="test")
    assert (tmp_path / "log").read_text() == "ab" * 4
    assert [side["parameters"] for side in measured.values()] == [5, 6]
    for each in measured.values():
        assert len(each["runs"]) == 3
        assert all(run["parts"] == {"part": 7.0} and run["peak_bytes"] > 1e6 for run in each["runs"])
    assert all(run["seconds"] >= 0.02 for run in measured["a"]["runs"])


def test_a_side_that_cannot_begin_or_breaks_off_ends_in_its_last_line(side):
    with pytest.raises(UserError, match="^lacking.py ended: ModuleNotFoundError: No module named 'there_is_none'$"):
        side("lacking.py", "import there_is_none")()
    breaking = side("breaking.py", "def build(**spec):\n    def work():\n        raise ValueError('broken')\n    return work, 0\n")()
    with pytest.raises(UserError, match="^breaking.py ended: ValueError: broken$"):
        breaking()
    with pytest.raises(UserError, match="no/such/python: No such file or directory: name the Python"):
        side("a.py", NOTING.format(name="a", seconds=0, parameters=0))("no/such/python")


def test_a_side_that_was_killed_ends_in_one_line(side):
    """As where memory is short, also between its runs."""
    begun = side("idle.py", "def build(**spec):\n    return (lambda: None), 0\n")()
    begun()
    begun.process.kill()
    begun.process.wait()
    with pytest.raises(UserError, match="^idle.py ended: code -9, without a word$"):
        begun()
    begun.close()


@pytest.mark.skipif(not STATUS.is_file(), reason="reads Linux's /proc")
def test_a_peak_stays_when_what_made_it_is_gone(side):
    begun = side("growing.py", "def build(**spec):\n    sizes = iter((1, 80_000_000, 1))\n"
                               "    return (lambda: (bytearray(b'1') * next(sizes)) and None), 0\n")()  # fmt: skip
    before, large, after = (begun()["peak_bytes"] for _ in range(3))
    begun.close()
    assert large > before + 0.9 * 80e6 and after > 0.99 * large  # the kernel counts a little late


def test_a_side_sees_none_of_the_benchmarks_own_modules(side, tmp_path):
    """Their names could hide packages that a peer imports."""
    (tmp_path / "beside_the_worker.py").write_text("")
    body = ("from importlib.util import find_spec\ndef build(**spec):\n"
            "    return (lambda: None), int(find_spec('beside_the_worker') is None)\n")  # fmt: skip
    begun = side("looking.py", body)(sys.executable)
    assert begun.parameters == 1
    begun.close()


def test_a_side_on_a_gpu_sees_it(side, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    environments = []
    monkeypatch.setattr(turns.subprocess, "Popen", lambda *args, env, **options: environments.append(env))
    monkeypatch.setattr(Side, "answer", lambda self: {"parameters": 1})
    for device in ("cuda", "cpu"):
        Side("a.py", {"threads": 1, "device": device})
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["3", ""]


def test_the_environment_sets_the_threads_and_hides_gpus(side, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    body = ("import os\ndef build(threads, log):\n    assert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
            "    return (lambda: None), int(os.environ['OMP_NUM_THREADS'])\n")  # fmt: skip
    begun = side("threads.py", body)()
    assert begun.parameters == 1
    assert json.loads(json.dumps(begun()))["parts"] == {}
    begun.close()
