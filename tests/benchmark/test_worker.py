from unclip.benchmark import worker


def test_a_system_that_does_not_say_what_a_process_held(monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "STATUS", tmp_path / "status")
    assert worker.peak_bytes() is None
    (tmp_path / "status").write_text("VmRSS:\t 5 kB\n")
    assert worker.peak_bytes() is None
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t 7 kB\nVmRSS:\t 5 kB\n")
    assert worker.peak_bytes() == 7 * 1024
