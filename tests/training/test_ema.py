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


def test_batch_norms_statistics_are_averaged_and_its_counter_is_copied():
    model = nn.BatchNorm1d(2, momentum=1.0)  # the running statistics are the last batch's
    ema = EMA(model, 0.5)
    ema.steps = 100
    for batch in ([[1.0, 2.0], [3.0, 6.0]], [[5.0, 0.0], [5.0, 2.0]]):
        model(torch.tensor(batch))
        ema.update(model)
    # means of the batches: (2, 4), then (5, 1); from 0, with a decay of a half
    assert torch.allclose(ema.state["running_mean"], torch.tensor([0.25 * 2 + 0.5 * 5, 0.25 * 4 + 0.5 * 1]))
    # unbiased variances: (2, 8), then (0, 2); from 1
    assert torch.allclose(ema.state["running_var"], torch.tensor([0.25 + 0.25 * 2 + 0.0, 0.25 + 0.25 * 8 + 0.5 * 2]))
    assert ema.state["num_batches_tracked"] == 2


def test_swapped_in_and_out_even_after_an_error():
    model = nn.Linear(2, 2)
    live = model.weight.detach().clone()
    ema = EMA(model, 0.9)
    ema.state["weight"].fill_(7)
    with pytest.raises(RuntimeError), ema.averaged(model):
        assert (model.weight == 7).all() and not model.training
        raise RuntimeError
    assert torch.equal(model.weight, live) and model.training and (ema.state["weight"] == 7).all()
