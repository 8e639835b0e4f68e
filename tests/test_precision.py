import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from unclip import cli
from unclip.precision import bfloat16_is_fast, chosen_dtype


@pytest.fixture
def processor(monkeypatch):
    """Pretend that the processor has no more than these instructions, and that there is no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


    def pretend(capability, name="AMD EPYC"):
        has = {"avx512_bf16": capability in ("AVX512", "AMX"), "amx_bf16": capability == "AMX", "cpu_name": name}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)

    return pretend


@pytest.mark.parametrize(
    "capability, name, fast",
    [
        ("AVX512", "AMD EPYC", True),
        ("AVX512", "Intel Xeon", False),
        ("AMX", "Intel Xeon", True),
        ("AVX512 without bfloat16", "AMD EPYC", False),
    ],
)
def test_a_processor(processor, capability, name, fast):
    processor(capability, name)
    assert bfloat16_is_fast("cpu") is fast and bfloat16_is_fast(torch.device("cpu")) is fast
    assert bfloat16_is_fast("mps") is False  # whatever the processor beside it has


@pytest.mark.parametrize("capability, fast", [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_a_pytorch_that_does_not_list_instructions(monkeypatch, capability, fast):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert bfloat16_is_fast("cpu") is fast


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked_itself_and_without_emulation(monkeypatch, supported):
    asked, of = [], []

    class On:
        def __init__(self, device):
            of.append(device)

        __enter__ = __exit__ = lambda self, *error: None

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kw: asked.append(kw) or supported)
    assert bfloat16_is_fast("cuda:1") is supported
    assert asked == [{"including_emulation": False}] and of == [torch.device("cuda:1")]


def test_what_is_asked_for_is_taken(processor):
    names = ["float32", "bfloat16", "float16"]
    for capability in ("AVX512", "AVX2"):
        processor(capability)
        assert [chosen_dtype(name, "cpu") for name in names] == names


@pytest.mark.parametrize("capability, dtype", [("AVX512", "bfloat16"), ("AVX2", "float32")])
def test_auto_draws_in_what_the_processor_computes_in_and_says_so(
    processor, capability, dtype, run_script, model_files, tmp_path
):
    """In the pictures stands what was chosen, not "auto": with it the same picture can be drawn elsewhere."""
    processor(capability)
    options = ("--model", model_files, "--device", "cpu", "--num-images", 1)
    code, paths, err = run_script("generate", "a dog", *options, "--dtype", "auto", "--out", tmp_path / "auto")
    assert code == 0, err
    picture = Image.open(paths[0])
    assert picture.text["dtype"] == dtype
    _, named, _ = run_script("generate", "a dog", *options, "--dtype", dtype, "--out", tmp_path / "named")
    assert np.array_equal(picture, Image.open(named[0]))


@pytest.mark.parametrize("capability, dtype", [("AVX512", "bfloat16"), ("AVX2", "float32")])
def test_auto_is_the_default(processor, capability, dtype):
    processor(capability)
    parser = argparse.ArgumentParser()
    cli.add_drawing_options(parser)
    assert cli.drawing(vars(parser.parse_args(["--device", "cpu"])))["dtype"] == dtype
