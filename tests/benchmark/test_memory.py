from pathlib import Path

import pytest

from unclip.benchmark import memory
from unclip.errors import UserError

linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
ARRAY = 80_000_000


@linux
def test_checkpointing_holds_less_at_the_peak():
    """Each peak is of its own process: the second would not be below the first in one."""
    measured = memory.measure([32], steps=1, threads=1)
    assert list(measured) == [32] and list(measured[32]) == ["plain", "checkpointed"]
    plain, checkpointed = measured[32].values()
    for one in (plain, checkpointed):
        assert one["seconds"] > 0 and one["loaded_bytes"] < one["peak_bytes"]
    assert checkpointed["peak_bytes"] < plain["peak_bytes"] - 50e6


@linux
def test_a_peak_stays_when_what_made_it_is_gone():
    before = memory.held_bytes("VmRSS")
    array = bytearray(b"1") * ARRAY
    held = memory.held_bytes("VmRSS")
    del array
    assert held > before + 0.9 * ARRAY and memory.held_bytes("VmRSS") < held - 0.9 * ARRAY
    assert memory.held_bytes("VmHWM") > 0.99 * held  # the kernel counts a little late


@linux
def test_a_step_that_does_not_end_is_said(monkeypatch):
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"a step of 3 pictures did not end \(code 1: no word\): measure smaller batches"):
        memory.measure([3])


def test_a_system_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    with pytest.raises(UserError, match="measure on Linux"):
        memory.measure([1])
