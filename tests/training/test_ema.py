import pytest
import torch
from torch import nn

from unclip.training.ema import EMA


def test_closed_form():
    """After the short memory of the first steps, state_n = decay^n state_0 + (1 - decay) sum decay^(n-k) w_k."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.5)
    ema.steps = 100  # (1 + n) / (10 + n) is above the decay
    for k in range(1, 6):
        nn.init.constant_(model.weight, k)
        ema.update(model)
    assert ema.state["weight"].item() == pytest.approx(0.5 * sum(0.5 ** (5 - k) * k for k in range(1, 6)))


def test_the_first_steps_forget_faster():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.9999)
    nn.init.ones_(model.weight)
    ema.update(model)
    assert ema.state["weight"].item() == pytest.approx(1 - 2 / 11)


def test_buffers_are_copied():
    model = nn.BatchNorm1d(2)
    ema = EMA(model, 0.9)
    model(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    ema.update(model)
    assert torch.equal(ema.state["running_mean"], model.running_mean) and ema.state["num_batches_tracked"] == 1


def test_swapped_in_and_out_even_after_an_error():
    model = nn.Linear(2, 2)
    live = model.weight.detach().clone()
    ema = EMA(model, 0.9)
    ema.state["weight"].fill_(7)
    with pytest.raises(RuntimeError), ema.averaged(model):
        assert (model.weight == 7).all() and not model.training
        raise RuntimeError
    assert torch.equal(model.weight, live) and model.training and (ema.state["weight"] == 7).all()
