import pytest
import torch

from unclip.errors import UserError
from unclip.networks import PriorTransformer, UNet
from unclip.training.loop import train

from .toys import Batches, Line, config


class OneBatch:
    def __init__(self, batch):
        self.batch = batch

    def at(self, step):
        return self.batch


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


def test_a_setting_that_is_not_for_this_model_ends_in_a_line_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="train.gradient_checkpointing is for priors, .* not for a Line: leave it out"):
        train(Line(), Batches(), [], config(tmp_path / "run", gradient_checkpointing=True), export=None)
    assert not list(tmp_path.iterdir())
