import pytest
import torch
from torch import nn

from unclip.operators import declare_operators
from unclip.training.config import OptimizerConfig
from unclip.training.optimizers import build_optimizer
from unclip.training.precision import chosen_precision

declare_operators()
from timm.optim import muon  # noqa: E402


@pytest.fixture
def processor(monkeypatch):
    """Pretend that the processor has no more than these instructions; whatever the optimizer changes is undone."""
    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", muon.zeropower_via_newtonschulz)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def pretend(capability):
        has = {"avx512_bf16": capability == "AVX512"}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)

    return pretend


@pytest.mark.parametrize("capability, precision", [("AVX512", "bf16"), ("AVX2", "no"), ("DEFAULT", "no")])
def test_auto_is_bfloat16_where_the_processor_has_it(processor, capability, precision):
    processor(capability)
    assert chosen_precision("auto") == precision


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_what_is_asked_for_is_taken(processor, precision):
    processor("AVX2")
    assert chosen_precision(precision) == precision


@pytest.mark.parametrize("capability, dtype", [("AVX512", torch.bfloat16), ("AVX2", torch.float32)])
def test_muon_orthogonalises_in_what_the_processor_computes_in(processor, monkeypatch, capability, dtype):
    processor(capability)
    layer = nn.Linear(8, 8, bias=False)
    multiplied = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **kw: multiplied.append(args[0].dtype) or addmm(*args, **kw))
    optimizer = build_optimizer(layer, OptimizerConfig(name="muon", lr=0.1))
    layer(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert set(multiplied) == {dtype}
