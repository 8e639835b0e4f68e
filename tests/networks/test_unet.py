import pytest
import torch
from einops import rearrange

from unclip.networks import UNet

from .randomness import randomise

SMALL = dict(in_channels=3, out_channels=6, channels=16, multipliers=[1, 2], num_res_blocks=1, attention_levels=[1],
             middle_attention=True, head_dim=8, norm="layer")


def small(**changed):
    return UNet(**{**SMALL, **changed})


def inputs(size=8, channels=3, batch=2):
    return torch.randn(batch, channels, size, size), torch.tensor([3, 700])[:batch]


@pytest.mark.parametrize("patch", [1, 2])
def test_starts_at_zero_and_can_leave_it(patch):
    x, t = inputs()
    assert torch.equal(small(patch=patch)(x, t), torch.zeros(2, 6, 8, 8))
    out = randomise(small(patch=patch))(x, t)
    assert out.shape == (2, 6, 8, 8) and out.std() > 1e-2


def test_the_stem_of_patches_round_trips():
    """patch=2 is the network of four times the channels on 2x2 blocks folded by hand, unfolded by hand."""
    folded = randomise(small(patch=1, in_channels=12, out_channels=24))
    net = small(patch=2)
    net.load_state_dict(folded.state_dict())
    x, t = torch.randn(2, 3, 8, 12), torch.tensor([3, 700])
    out = folded(rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2), t)
    torch.testing.assert_close(net(x, t), rearrange(out, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2))


def test_memory_format_does_not_matter():
    net = randomise(small(context_dim=5))
    x, t = inputs()
    context = torch.randn(2, 3, 5)
    out = net(x, t, None, context)
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last), t, None, context), out)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x, t, None, context), out)


@pytest.mark.parametrize("patch", [1, 2])
def test_every_feature_map_is_channels_last(patch):
    """A block that leaves the format costs a third of the speed on a CPU, and nothing else tells."""
    net, seen = randomise(small(patch=patch)), []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(*inputs(size=16))
    assert len(seen) > 10
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_every_parameter_learns():
    net = randomise(small(context_dim=5))
    x, t = inputs()
    net(x, t, torch.randn(2, net.time_embed_dim), torch.randn(2, 3, 5)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_conditions_act_each_on_its_own_image():
    net = randomise(small(context_dim=5))
    x, t = inputs()
    emb, context = torch.randn(2, net.time_embed_dim), torch.randn(2, 3, 5)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    out = net(x, t, emb, context, mask)
    for changed in [(x + 1, t, emb, context, mask), (x, t + 50, emb, context, mask), (x, t, emb + 1, context, mask),
                    (x, t, None, context, mask), (x, t, emb, context + 1, mask), (x, t, emb, context, ~mask)]:
        assert not torch.allclose(net(*changed), out, atol=1e-4)
    alone = net(x[1:], t[1:], emb[1:], context[1:], mask[1:])
    torch.testing.assert_close(out[1:], alone)


def test_a_masked_token_does_not_matter():
    net = randomise(small(context_dim=5))
    x, t = inputs()
    context, other = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    other[:, 0] = context[:, 0]
    mask = torch.tensor([[True, False, False]] * 2)
    assert torch.equal(net(x, t, None, context, mask), net(x, t, None, other, mask))
    assert not torch.allclose(net(x, t, None, context), net(x, t, None, other), atol=1e-4)


def test_bfloat16_autocast_stays_near_float32():
    net = randomise(small(context_dim=5, patch=2), std=0.05)
    x, t = inputs()
    emb, context = torch.randn(2, net.time_embed_dim), torch.randn(2, 3, 5)
    exact = net(x, t, emb, context)
    with torch.autocast("cpu", torch.bfloat16):
        near = net(x, t, emb, context)
    assert near.dtype == torch.bfloat16
    assert (near - exact).norm() / exact.norm() < 0.03


def test_whole_network_in_bfloat16():
    net = randomise(small()).to(torch.bfloat16)
    x, t = inputs()
    out = net(x.to(torch.bfloat16), t)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_res_blocks_and_attention_go_where_they_are_told():
    net = small(multipliers=[1, 2, 2], num_res_blocks=[1, 2, 3], attention_levels=[0, 2], middle_attention=False)
    down = [(layer.block.conv_1.out_channels, layer.block.resample is not None, layer.attention is not None)
            for layer in net.down]
    assert down == [(16, False, True), (16, True, False),
                    (32, False, False), (32, False, False), (32, True, False),
                    (32, False, True), (32, False, True), (32, False, True)]
    assert [layer.attention for layer in net.middle] == [None, None]
    assert [[layer.attention is not None for layer in layers] for layers in net.up] == [
        [True] * 4, [False] * 3, [True] * 2]
    assert net.downsampling == 4
    assert net(*inputs(size=12)).shape == (2, 6, 12, 12)


@pytest.mark.parametrize("changed, message", [
    (dict(num_res_blocks=[1]), r"num_res_blocks=\[1\] names 1 levels, multipliers=\[1, 2\] 2"),
    (dict(attention_levels=[2]), r"attention_levels=\[2\]: there are levels 0 to 1"),
    (dict(norm="batch"), r"norm='batch': choose one of \['group', 'layer'\]"),
    (dict(norm="group"), "divisible by 32, got 16"),
    (dict(head_dim=12), "head_dim=12 does not divide the 32 channels"),
    (dict(head_dim=None), "head_dim is needed"),
    (dict(patch=3), "patch=3: choose 1 or 2"),
    (dict(context_dim=5, attention_levels=[], middle_attention=False), "no attention layer to read the context"),
])
def test_wrong_settings_raise(changed, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changed, message", [
    (dict(x_t=torch.zeros(2, 3, 8, 10)), "image size 8x10 is not divisible by 4"),
    (dict(x_t=torch.zeros(2, 4, 8, 8)), "x_t has 4 channels, the network takes 3"),
    (dict(t=torch.tensor(3)), r"t has shape \(\), the batch needs \(2,\)"),
    (dict(emb=torch.zeros(2, 63)), r"emb has shape \(2, 63\), the network takes \(2, 64\)"),
    (dict(context=None), "context is missing, but the network has context_dim=5"),
    (dict(context=torch.zeros(2, 3, 6)), "context is 6 wide, context_dim is 5"),
    (dict(context_mask=torch.ones(2, 4, dtype=torch.bool)), r"context_mask has shape \(2, 4\), context \(2, 3\)"),
    (dict(context_mask=torch.ones(2, 3)), "context_mask must be boolean"),
])
def test_wrong_inputs_raise(changed, message):
    net = small(patch=2, context_dim=5)
    right = dict(x_t=torch.zeros(2, 3, 8, 8), t=torch.tensor([1, 2]), emb=torch.zeros(2, 64),
                 context=torch.zeros(2, 3, 5), context_mask=torch.ones(2, 3, dtype=torch.bool))
    assert net(**right).shape == (2, 6, 8, 8)
    with pytest.raises(ValueError, match=message) as error:
        net(**{**right, **changed})
    assert "\n" not in str(error.value)


def test_context_for_a_network_without_raises():
    with pytest.raises(ValueError, match="context is given, but the network has context_dim=None"):
        small()(*inputs(), context=torch.zeros(2, 3, 5))


@pytest.mark.parametrize("millions, settings", [
    (885, dict(in_channels=3, out_channels=6, attention_levels=[1, 2, 3], middle_attention=True, context_dim=1536)),
    (692, dict(in_channels=6, out_channels=3, attention_levels=[], middle_attention=False, scale_shift=False)),
])
def test_karlo_sizes(millions, settings):
    """Decoder (without its 7.9 M of projections, which are its caller's) and upsampler, as published."""
    with torch.device("meta"):
        net = UNet(channels=320, multipliers=[1, 2, 3, 4], num_res_blocks=3, head_dim=64, **settings)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.001)
