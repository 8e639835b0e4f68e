"""FLOP, moments and parameters of a training step, against what can be worked out by hand or counted with numbers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unclip.contrastive import ContrastiveCLIP
from unclip.decoder import Decoder
from unclip.plan.models import subject
from unclip.plan.step import step_of
from unclip.prior import DiffusionPrior
from unclip.training.config import OptimizerConfig
from unclip.upsampler import Upsampler

CLIP = "clip.name=data/pocket/clip"
SMALL = ["optimizer.name=adamw", "model.unet.channels=32", "model.unet.num_res_blocks=1"]


def made(model, x, optimizer="adamw", beside=lambda: None):
    """A Subject of a module without a loss of its own."""
    config = SimpleNamespace(optimizer=OptimizerConfig(name=optimizer, lr=1e-3))
    return SimpleNamespace(model=model, config=config, loss=lambda: model(x).mean(), beside=beside)


def test_flop_of_a_linear_layer_and_a_convolution():
    """2 B I O of a matrix, 2 B H W 9 I O of a convolution; as many again for the gradient of the weights, and of the input
    where that is asked for."""
    linear = made(nn.Linear(8, 16, device="meta"), torch.empty(5, 8, device="meta"))
    assert step_of(linear).passes["plain"].flops == 2 * (2 * 5 * 8 * 16)
    image = torch.empty(2, 4, 10, 10, device="meta", requires_grad=True)
    convolution = made(nn.Conv2d(4, 6, 3, padding=1, device="meta"), image)
    assert step_of(convolution, torch.bfloat16).passes["plain"].flops == 3 * (2 * 2 * 100 * 9 * 4 * 6)
    beside = nn.Linear(8, 16, device="meta")
    x = torch.empty(5, 8, device="meta")
    helped = made(nn.Linear(8, 16, device="meta"), x, beside=lambda: beside(x))
    assert step_of(helped).passes["plain"].flops == 3 * (2 * 5 * 8 * 16)


def test_moments_are_two_numbers_a_weight_and_one_where_muon_updates():
    x = torch.empty(5, 8, device="meta")
    of_linear, steps = 8 * 16 + 16, 4 * 2  # AdamW counts its steps for each parameter
    assert step_of(made(nn.Linear(8, 16, device="meta"), x)).moments == 2 * 4 * of_linear + steps
    by_muon = step_of(made(nn.Linear(8, 16, device="meta"), x, "muon"))
    assert 4 * (8 * 16 + 2 * 16) <= by_muon.moments < 4 * (8 * 16 + 2 * 16) + 16
    assert by_muon.optimizer_flops > 0


@pytest.mark.parametrize("name, overrides, part", [
    ("mine/prior", [], DiffusionPrior), ("mine/decoder", [], Decoder), ("pocket/prior", [CLIP], DiffusionPrior),
    ("pocket/decoder", [CLIP], Decoder), ("pocket/upsampler", [], Upsampler), ("pocket/clip-both", [], ContrastiveCLIP),
])  # fmt: skip
def test_parameters_are_those_of_the_real_module(name, overrides, part):
    found = subject(f"configs/{name}.yaml", overrides)
    assert isinstance(found.model, part)
    if part is ContrastiveCLIP:
        real = ContrastiveCLIP(found.config.model.architecture)
    else:
        real = part(**found.model.options)
    shapes, expected = ({k: v.shape for k, v in model.named_parameters()} for model in (found.model, real))
    assert shapes == expected
    assert all(tensor.is_meta for tensor in found.model.parameters())


def test_a_step_on_meta_has_the_flop_of_one_with_numbers():
    """The loss of a prior, in float32: the processor attends by plain products, which are counted alike."""
    found = subject("configs/mine/prior.yaml", ["train.batch_size=3", "optimizer.name=adamw"])
    found.beside = lambda: None
    planned = step_of(found).passes["plain"].flops
    real = DiffusionPrior(**found.model.options)
    text = {"text_embed": torch.randn(3, 128), "text_states": torch.randn(3, 24, 128), "text_mask": torch.ones(3, 24).bool()}
    data = {"image_embed": torch.randn(3, 128), **text, **{f"null_{key}": value[:1] for key, value in text.items()}}
    with FlopCounterMode(display=False) as counter:
        real.loss(data)[0].mean().backward()
    attends = {name: count for name, count in counter.get_flop_counts()["Global"].items() if "bmm" in str(name)}
    assert counter.get_total_flops() <= planned <= counter.get_total_flops() + sum(attends.values())


def test_checkpointing_keeps_less_and_computes_more():
    passes = step_of(subject("configs/pocket/upsampler.yaml", SMALL), torch.bfloat16).passes
    plain, checkpointed = passes["plain"], passes["checkpointed"]
    assert checkpointed.kept < 0.6 * plain.kept and 1 < checkpointed.flops / plain.flops < 4 / 3
    assert checkpointed.casts < plain.casts


def test_what_is_kept_grows_with_the_batch():
    subjects = (subject("configs/pocket/upsampler.yaml", [*SMALL, f"train.batch_size={n}"]) for n in (4, 8))
    one, two = (step_of(small).passes["plain"] for small in subjects)
    assert two.flops == 2 * one.flops
    assert two.kept == pytest.approx(2 * one.kept, rel=0.01)
