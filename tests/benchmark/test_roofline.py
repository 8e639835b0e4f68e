import pytest
import torch
from torch import nn

from unclip.benchmark import roofline
from unclip.benchmark.roofline import of_part, table

RATES = {"matrix": 1e9, "convolution": 2e9}


def test_flops_and_what_is_attainable():
    """Two operations for every multiplication: 2 B I O of a matrix, 2 B H W 9 I O of a convolution."""
    linear, convolution = nn.Linear(8, 16), nn.Conv2d(4, 6, 3, padding=1)
    x, image = torch.randn(5, 8), torch.randn(2, 4, 10, 10)

    def forward():
        linear(x), convolution(image).relu()

    with torch.no_grad():
        found = of_part(forward, RATES)
    of_linear, of_convolution = 2 * 5 * 8 * 16, 2 * 2 * 100 * 9 * 4 * 6
    assert found["flops"] == of_linear + of_convolution
    assert found["attainable_seconds"] == pytest.approx(of_linear / 1e9 + of_convolution / 2e9)
    assert found["share"] == pytest.approx(found["attainable_seconds"] / found["seconds"])
    assert sum(found["work"].values()) == pytest.approx(1) and found["work"]["convolutions"] > 0
    assert len(table({"rates": RATES, "parts": {"decoder": found}})) == 5


def test_the_script_prints_and_names_what_it_wrote(run_script, monkeypatch, model_files, tmp_path):
    asked = []
    monkeypatch.setattr(roofline, "measure", lambda model, *args: asked.append(args) or {"rates": RATES, "parts": {}})
    argv = ["--model", model_files, "--batch", "3", "--threads", "2", "--out", tmp_path]
    code, out, _ = run_script("benchmark", "roofline", *argv)
    assert code == 0 and asked == [(3, 2)]
    assert out[-2:] == [str(tmp_path / "roofline.json"), str(tmp_path / "roofline.md")]
    assert out[:-2] == (tmp_path / "roofline.md").read_text().splitlines()
    assert out[0].endswith(f"; model {model_files}, batch 3, threads 2")
