from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unclip.benchmark import roofline
from unclip.benchmark.roofline import of_part, table
from unclip.pipeline import UnCLIP

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
    found = {"rates": RATES, "parts": {}}
    monkeypatch.setattr(roofline, "measure", lambda model, *args: asked.append((model.decoder.dtype, *args)) or found)
    argv = ["--model", model_files, "--batch", "3", "--threads", "2", "--dtype", "bfloat16", "--device", "cpu"]
    code, out, _ = run_script("benchmark", "roofline", *argv, "--out", tmp_path)
    assert code == 0 and asked == [(torch.bfloat16, 3, 2)]
    assert out[-2:] == [str(tmp_path / "roofline.json"), str(tmp_path / "roofline.md")]
    assert out[:-2] == (tmp_path / "roofline.md").read_text().splitlines()
    assert out[0].endswith(f"; model {model_files}, batch 3, threads 2, dtype bfloat16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_part_of_a_model_is_measured_in_its_dtype(monkeypatch, model_files, dtype):
    seen = []
    for rate in ("matrix_rate", "convolution_rate"):
        monkeypatch.setattr(roofline, rate, lambda like: seen.append((like.dtype, like.device)) or 1e9)
    model = UnCLIP.from_pretrained(model_files, dtype=dtype)
    found = roofline.measure(model, batch=2, threads=1)
    assert seen == [(dtype, torch.device("cpu"))] * 2
    assert list(found["parts"])[:2] == ["prior", "decoder"] and all(part["flops"] > 0 for part in found["parts"].values())


def test_the_rates_are_of_the_work_that_was_done(monkeypatch):
    """Two operations for every multiplication, in the second that a stopped clock gives."""
    done = []
    monkeypatch.setattr(roofline, "fastest", lambda work, device: done.append((work(), device)) or 1.0)
    like = torch.empty(0)
    assert (roofline.matrix_rate(like), roofline.convolution_rate(like)) == (2 * 2048**3, 2 * 9 * 256**2 * 16 * 32**2)
    assert [(tuple(made.shape), device) for made, device in done] == [((2048, 2048), "cpu"), ((16, 256, 32, 32), "cpu")]
    assert done[1][0].is_contiguous(memory_format=torch.channels_last)


def test_a_gpus_time_is_that_of_its_kernels_counted_once(monkeypatch):
    """Operations hold their kernels' time; the kernels, which are listed too, would count it again."""
    CPU, CUDA = roofline.DeviceType.CPU, roofline.DeviceType.CUDA
    took = (("aten::addmm", CPU, 6), ("sm90_gemm", CUDA, 6), ("aten::cudnn_convolution", CPU, 2))
    events = [SimpleNamespace(key=key, device_type=kind, self_device_time_total=time) for key, kind, time in took]
    monkeypatch.setattr(roofline, "profile", lambda: nullcontext(SimpleNamespace(key_averages=lambda: events)))
    taken = roofline.shares(lambda: None, "cuda:0")
    assert taken == {"convolutions": 0.25, "matrix products": 0.75, "norms": 0, "the rest": 0}
    for event in events:
        event.self_device_time_total = 0
    assert roofline.shares(lambda: None, "cuda:0") == {}
