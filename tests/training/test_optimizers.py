import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unclip.training.checkpoint import Checkpoints
from unclip.training.config import OptimizerConfig
from unclip.training.ema import EMA
from unclip.training.optimizers import build_optimizer, rate_at

from .toys import config as run_config

REPO = Path(__file__).resolve().parents[2]


class Net(nn.Module):
    edge_layers = ("first", "table")

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.inner = nn.Conv2d(4, 4, 3)
        self.matrix = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.table = nn.Embedding(5, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names(model, parameters):
    return {name for name, p in model.named_parameters() if any(p is q for q in parameters)}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_who_gets_muon_and_who_decays(name):
    model = Net()
    optimizer = build_optimizer(model, OptimizerConfig(name=name, lr=0.1, weight_decay=0.3))
    inner = {"inner.weight", "matrix.weight"}
    rest = {"first.weight", "first.bias", "inner.bias", "matrix.bias", "norm.weight", "norm.bias", "table.weight"}
    decayed = [p for g in optimizer.param_groups if g["weight_decay"] == 0.3 for p in g["params"]]
    assert names(model, decayed) == inner
    assert names(model, [p for g in optimizer.param_groups for p in g["params"]]) == inner | rest
    if name == "muon":
        assert names(model, [p for g in optimizer.param_groups if not g.get("use_fallback") for p in g["params"]]) == inner


def test_muon_moves_inner_matrices_orthogonally():
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_optimizer(model, OptimizerConfig(name="muon", lr=0.1))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.randn(p.shape, generator=generator) * 10
    optimizer.step()
    change = {k: v - before[k] for k, v in model.state_dict().items()}
    values = torch.linalg.svdvals(change["matrix.weight"])
    assert values.min() > 0.5 * values.max()
    # AdamW's first step is the sign of the gradient times lr, and times 1 + beta_1 with Nesterov's momentum
    for name in ("first.weight", "table.weight", "norm.bias"):
        torch.testing.assert_close(change[name].abs(), torch.full_like(change[name], 0.19), atol=1e-4, rtol=0)
    assert change["frozen.weight"].abs().max() == 0


@pytest.mark.parametrize("device, fused", [("cuda", True), ("cpu", None)])
def test_adamw_is_fused_where_all_parameters_are_on_cuda(monkeypatch, device, fused):
    """The parameters only say where they are, so that it takes no GPU."""
    said = {}
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **options: said.update(options))
    parameter = SimpleNamespace(ndim=2, requires_grad=True, is_cuda=device == "cuda")
    model = SimpleNamespace(named_parameters=lambda: [("a.weight", parameter), ("b.weight", parameter)])
    build_optimizer(model, OptimizerConfig(name="adamw", lr=0.1))
    assert said["fused"] is fused


@pytest.mark.parametrize("first, then", [(True, None), (None, True)])
def test_a_run_goes_on_where_adamw_is_fused_or_no_longer(tmp_path, first, then):
    """As it does when a run moves from a GPU to a processor, or back."""

    def step(model, optimizer):
        torch.manual_seed(0)
        model.matrix(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, model = Net(), Net()
    model.load_state_dict(whole.state_dict())
    optimizers = [torch.optim.AdamW(m.matrix.parameters(), lr=0.1, fused=f) for m, f in ((whole, None), (model, first))]
    step(whole, optimizers[0]), step(model, optimizers[1])
    Checkpoints(tmp_path, run_config(tmp_path), model, EMA(model, 0.9), optimizers[1]).save({"step": 1})
    other = Net()
    optimizer = torch.optim.AdamW(other.matrix.parameters(), lr=0.1, fused=then)
    assert Checkpoints(tmp_path, run_config(tmp_path), other, EMA(other, 0.9), optimizer).load() == {"step": 1}
    step(whole, optimizers[0]), step(other, optimizer)
    torch.testing.assert_close(other.matrix.weight, whole.matrix.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step, progress, factor", [
    (0, 0.0, 0.25), (1, 0.0, 0.5), (3, 0.1, 1.0), (50, 0.6, 1.0), (80, 0.8, 0.5), (95, 0.95, 0.125), (100, 1.0, 0.0),
    (120, 1.2, 0.0),
])  # fmt: skip
def test_rate(step, progress, factor):
    config = OptimizerConfig(name="adamw", lr=1, warmup=4, decay=0.4)
    assert rate_at(step, progress, config) == pytest.approx(factor)


def test_rate_without_warm_up_and_decay():
    config = OptimizerConfig(name="adamw", lr=1, warmup=0, decay=0)
    assert rate_at(0, 0.0, config) == rate_at(99, 0.99, config) == 1


def test_muon_is_had_where_torchvisions_operators_do_not_load(tmp_path):
    """As with the CPU build of torch: an upsampler without CLIP trains by timm's Muon, and timm imports torchvision."""
    (tmp_path / "torchvision.py").write_text(
        "import torch\n"
        "torch.library.register_fake('torchvision::nms')(lambda dets, scores, iou_threshold: None)\n"
    )
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("import torchvision\n")
    (tmp_path / "timm" / "optim.py").write_text(
        "from torch.optim import SGD\n"
        "class muon:\n"
        "    zeropower_via_newtonschulz = print\n"
        "    Muon = staticmethod(lambda groups, lr, **options: SGD(groups, lr))\n"
    )
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPO)!r}]\n"
        "import torch\n"
        "from unclip.training.config import OptimizerConfig\n"
        "from unclip.training.optimizers import build_optimizer\n"
        "print(type(build_optimizer(torch.nn.Linear(2, 2), OptimizerConfig(name='muon', lr=0.1))).__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout == "SGD\n", out.stderr
