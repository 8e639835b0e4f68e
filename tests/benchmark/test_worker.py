import io
import json
import sys
from types import SimpleNamespace

from unclip.benchmark import worker


def test_a_system_that_does_not_say_what_a_process_held(monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "STATUS", tmp_path / "status")
    assert worker.peak_bytes() is None
    (tmp_path / "status").write_text("VmRSS:\t 5 kB\n")
    assert worker.peak_bytes() is None
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t 7 kB\nVmRSS:\t 5 kB\n")
    assert worker.peak_bytes() == 7 * 1024


def test_a_gpu_is_waited_for_and_its_peak_is_that_of_its_tensors(monkeypatch):
    said = []
    monkeypatch.setattr("torch.accelerator.synchronize", said.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: said.append(f"peak of {device}") or 7)
    assert worker.now("cpu") <= worker.now("cuda:1") and worker.peak_bytes("cuda:1") == 7
    assert said == ["cuda:1", "peak of cuda:1"]
    assert worker.peak_bytes("mps") is None


def test_the_work_is_waited_for(monkeypatch, tmp_path, capfd):
    """A run is timed from when all before it is done to when all of it is."""
    said = []
    monkeypatch.setattr("torch.accelerator.synchronize", lambda device: said.append("wait"))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(worker, "load", lambda file: SimpleNamespace(build=lambda device: (lambda: said.append("work"), 5)))
    monkeypatch.setattr("sys.argv", ["worker.py", "side.py", json.dumps({"device": "cuda"})])
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("os.dup2", lambda *files: None)
    worker.main()
    assert said == ["wait", "work", "wait"] * 2
    parameters, *runs = map(json.loads, capfd.readouterr().out.splitlines())
    assert parameters == {"parameters": 5} and [run["peak_bytes"] for run in runs] == [7, 7]
