import torch
from torch import nn

from unclip.bare import bare


def build():
    layers = [nn.Linear(3, 4), nn.Embedding(5, 3), nn.Conv2d(3, 4, 3), nn.LayerNorm(3), nn.GroupNorm(1, 4)]
    return nn.ModuleList([*layers, nn.MultiheadAttention(4, 2)])


def test_modules_have_their_shapes_and_take_weights():
    made = build()
    with bare():
        empty = build()
    assert all(p.device.type == "meta" and p.requires_grad for p in empty.parameters())
    empty.load_state_dict(made.state_dict(), assign=True)
    assert all(torch.equal(a, b) for a, b in zip(empty.parameters(), made.parameters(), strict=True))


def test_nothing_is_drawn_and_it_ends():
    before = torch.get_rng_state()
    with bare():
        build()
    assert torch.equal(torch.get_rng_state(), before)
    assert nn.init.constant_(torch.empty(3), 2.0).tolist() == [2, 2, 2]
    assert torch.empty(1).device.type == "cpu"
