"""Bytes a weight on each GPU, as the strategies' authors count them."""

import pytest
from torch import nn

from unclip.networks.resblock import ResBlock
from unclip.plan.memory import gathered, held

N = 1000


@pytest.fixture
def model():
    return nn.Linear(N, 1, bias=False, device="meta")


def test_ddp_holds_all_of_it_on_each(model):
    alone, many = (held(model, 70, 8 * N, "ddp", gpus, 2) for gpus in (1, 8))
    assert alone == {"weights": 4 * N, "gradients": 4 * N, "moments": 8 * N, "EMA": 4 * N, "buckets": 0, "frozen": 70}
    assert many == {**alone, "buckets": 4 * N}


def test_fsdp_divides_all_but_what_is_gathered(model):
    rows = held(model, 70, 8 * N, "fsdp", 8, 2)
    assert rows == {"weights": N / 2, "gradients": N / 2, "moments": N, "EMA": N / 2, "gathered": 2 * N, "frozen": 70}


def test_zero_divides_16_or_all_of_its_20_bytes_a_weight(model):
    """Rajbhandari et al. 2020, "ZeRO", figure 1: stage 2 divides gradients and the optimizer's, stage 3 weights, too. In
    float32 these are 4 each, and moments and the copy that learns 12."""
    for strategy, whole in (("zero2", 4), ("zero3", 0)):
        for half_bytes in (2, None):
            rows = held(model, 0, 8 * N, strategy, 8, half_bytes)
            assert rows["weights"] + rows["gradients"] + rows["moments"] == whole * N + (20 - whole) * N / 8
            alone = held(model, 0, 8 * N, strategy, 1, half_bytes)
            assert alone["weights"] + alone["gradients"] + alone["moments"] == 20 * N


def test_frozen_weights_have_no_gradients(model):
    model.requires_grad_(False)
    assert held(model, 0, 0, "ddp", 8)["gradients"] == 0


def test_blocks_are_gathered_one_after_the_other():
    def block(width):
        return ResBlock(in_channels=width, out_channels=width, embed_dim=4, norm="layer", scale_shift=True, dropout=0.0)

    small, large, rest = block(4), block(8), nn.Linear(4, 4)
    counts = [sum(p.numel() for p in module.parameters()) for module in (rest, large)]
    assert gathered(nn.ModuleList([small, large, rest])) == counts[0] + 3 * counts[1]
