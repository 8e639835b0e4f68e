from types import SimpleNamespace

import pytest
import torch

from unclip.errors import UserError
from unclip.networks import PriorTransformer, UNet
from unclip.prior import DiffusionPrior
from unclip.training.loop import train
from unclip.training.speed import allow_tf32, compile_networks

from .toys import Batches, Line, config


class OneBatch:
    def __init__(self, batch):
        self.batch = batch

    def at(self, step):
        return self.batch

    def state(self):
        return {}

    def load(self, state):
        pass


@pytest.fixture
def trained(batch, make_prior, make_decoder, tmp_path):
    """Train a part for three steps: (the part, its weights as they were exported)."""

    def run(part, name, **settings):
        torch.manual_seed(0)
        model = {"prior": make_prior, "decoder": make_decoder}[part]()
        exported = []
        train(model, OneBatch(batch), [batch], config(tmp_path / name, {"lr": 1e-3}, batch_size=3, steps=3, **settings),
              export=lambda m: exported.append({k: v.clone() for k, v in m.state_dict().items()}))  # fmt: skip
        return model, exported[-1]

    return run


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_checkpointing_trains_the_same_weights(trained, part):
    plain, averaged = trained(part, "plain")
    other, other_averaged = trained(part, "other", gradient_checkpointing=True)
    on = [m.gradient_checkpointing for m in other.modules() if isinstance(m, (UNet, PriorTransformer))]
    assert on == [True]
    moved = 0
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other_averaged[name], averaged[name], rtol=1e-4, atol=1e-5)
        moved += not torch.equal(value, averaged[name])
    assert moved > 20


@pytest.fixture
def graphs(monkeypatch):
    """torch.compile without a compiler: the sizes of the graphs' runs, one a run."""
    torch._dynamo.reset()
    runs, real = [], torch.compile

    def eager(graph, inputs):
        def run(*args):
            runs.append(len(graph.graph.nodes))
            return graph(*args)

        return run

    monkeypatch.setattr(torch, "compile", lambda function, mode: real(function, backend=eager))
    yield runs
    torch._dynamo.reset()


@pytest.mark.parametrize("part, checkpointing", [("prior", False), ("prior", True), ("decoder", True)])
def test_a_compiled_network_trains_the_same_weights_under_the_same_names(trained, graphs, part, checkpointing):
    plain, averaged = trained(part, "plain")
    assert not graphs
    other, other_averaged = trained(part, "other", compile="default", gradient_checkpointing=checkpointing)
    assert len(graphs) >= 3 * 2 and max(graphs) > 20  # of three steps, what `read` and `denoise` do
    assert list(other.state_dict()) == list(plain.state_dict()) and list(other_averaged) == list(averaged)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other_averaged[name], averaged[name], rtol=1e-4, atol=1e-5)


def test_a_compiled_part_is_saved_as_any_other_and_a_compiled_run_goes_on(trained, graphs, tmp_path):
    compiled, _ = trained("prior", "run", compile="default")
    compiled.save(tmp_path / "prior", dtype=None)
    loaded = DiffusionPrior.from_pretrained(tmp_path / "prior")
    assert all(torch.equal(value, compiled.state_dict()[name]) for name, value in loaded.state_dict().items())
    again, _ = trained("prior", "run")  # finished: what its checkpoint holds
    assert all(torch.equal(value, compiled.state_dict()[name]) for name, value in again.state_dict().items())


def test_without_a_gradient_a_network_runs_as_it_is(graphs, make_prior, batch):
    prior = make_prior()
    expected = prior.loss(batch, torch.Generator().manual_seed(0))[0].detach()
    compile_networks(prior, "default")
    with torch.no_grad():
        assert torch.equal(prior.loss(batch, torch.Generator().manual_seed(0))[0], expected)
    assert not graphs
    torch.testing.assert_close(prior.loss(batch, torch.Generator().manual_seed(0))[0], expected)
    assert graphs


def test_a_compiler_that_fails_ends_in_a_line(monkeypatch, make_prior, batch):
    def none(graph, inputs):
        raise RuntimeError("no C++ compiler\nhere")

    torch._dynamo.reset()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode: real(function, backend=none))
    prior = make_prior()
    compile_networks(prior, "max-autotune")
    with pytest.raises(UserError, match="train.compile=max-autotune: .*no C.. compiler.*train.compile=null") as error:
        prior.loss(batch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model, device, precision, asked", [
    ("prior", "cuda", "no", ["high"]), ("prior", "cuda", "bf16", []), ("prior", "cuda", "fp16", []), ("prior", "cpu", "no", []),
    ("clip", "cuda", "no", []),
])  # fmt: skip
def test_tf32_where_float32_trains_a_denoiser_on_cuda_and_only_there(monkeypatch, make_prior, model, device, precision, asked):
    said = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    model = make_prior() if model == "prior" else Line()
    allow_tf32(model, SimpleNamespace(device=torch.device(device), mixed_precision=precision))
    assert said == asked


def test_training_on_the_cpu_leaves_matrices_in_float32(trained):
    trained("prior", "run")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("setting, value", [("gradient_checkpointing", True), ("compile", "default")])
def test_a_setting_that_is_not_for_this_model_ends_in_a_line_before_anything_is_written(tmp_path, setting, value):
    with pytest.raises(UserError, match=f"train.{setting} is for priors, .* not for a Line: leave it out"):
        train(Line(), Batches(), [], config(tmp_path / "run", **{setting: value}), export=None)
    assert not list(tmp_path.iterdir())
