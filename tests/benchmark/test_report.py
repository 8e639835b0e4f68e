import json
from types import SimpleNamespace

import pytest
from PIL import Image

from unclip.benchmark.machine import in_words, machine
from unclip.benchmark.report import summary, table, write


def runs(*seconds, peak=2_000_000_000):
    return {"parameters": 3_000_000, "runs": [{"seconds": s, "parts": {"decoder": s / 2}, "peak_bytes": peak} for s in seconds]}


MEASURED = {"theirs": runs(6.0, 4.0, 9.0), "unclip": runs(2.0, 4.0, 3.0, peak=1_000_000_000)}


def test_ratios_are_those_of_the_same_round():
    found = summary(MEASURED, "unclip")
    assert found["theirs"]["seconds"] == (6.0, 4.0, 9.0)
    assert found["theirs"]["ratio"] == (3.0, 1.0, 3.0)  # of 3, 1 and 3; the medians' would be 2
    assert found["unclip"]["ratio"] == (1.0, 1.0, 1.0)
    assert found["theirs"]["parts"] == {"decoder": 3.0}
    assert found["theirs"]["peak_bytes"] == 2_000_000_000


def test_what_is_written_and_printed(tmp_path, capsys):
    found, described = {"sampling": summary(MEASURED, "unclip")}, machine()
    paths = write(tmp_path, "sampling", described, {"rounds": 3}, {"sampling": MEASURED}, found)
    assert [path.name for path in paths] == ["sampling.json", "sampling.md", "sampling.png"]
    assert json.loads(paths[0].read_text()) == {"machine": described, "asked": {"rounds": 3}, "measured": {"sampling": MEASURED}}
    text = paths[1].read_text()
    assert capsys.readouterr().out == text and text.startswith(f"{in_words(described)}; rounds 3\n\n|")
    assert "| sampling | theirs | 3.0 M | 6 (4 to 9) | 3 (1 to 3) | 2.00 GB |" in text
    assert "| | theirs: decoder | | 3 | 2 | |" in text  # 3 s where the last side's took 1.5
    with Image.open(paths[2]) as chart:
        assert chart.format == "PNG" and chart.width > 300


def test_the_machine_is_named(monkeypatch):
    """By its processor, also where there is a GPU that is not what is measured."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    described = machine()
    assert described["cores"] >= 1 and f"{described['cores']} cores of {described['processor']}" in in_words(described)
    assert "a GPU" not in in_words(described) and described["date"] in in_words(described)
    assert described["versions"]["torch"] in in_words(described)


def test_the_card_is_named_where_it_is_measured(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"the GPU {device}")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr("torch.version.cuda", "12.8")
    described = machine("cuda:1")
    assert {key: described[key] for key in ("card", "card_memory_gib", "cuda")} == {
        "card": "the GPU cuda:1", "card_memory_gib": 80.0, "cuda": "12.8"}  # fmt: skip
    assert in_words(described) == "the GPU cuda:1 (80.0 GiB, CUDA 12.8), " + in_words(machine())


@pytest.mark.parametrize("peak, said", [(None, "|  |"), (5e6, "| 0.01 GB |")])
def test_a_system_that_does_not_tell_the_memory(peak, said):
    lines = table({"sampling": summary({"unclip": runs(1.0, peak=peak)}, "unclip")})
    assert lines[2].startswith("| sampling | unclip |") and lines[2].endswith(said)
