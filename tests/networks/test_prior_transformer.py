import pytest
import torch
from diffusers import PriorTransformer as Theirs

from unclip.networks import PriorTransformer

from .randomness import erase, randomise

SMALL = dict(embed_dim=12, text_dim=10, text_length=5, width=16, layers=2, heads=4)


def small(**changed):
    return PriorTransformer(**{**SMALL, **changed})


def inputs():
    return dict(x_t=torch.randn(2, 12), t=torch.tensor([3, 700]), text_embed=torch.randn(2, 12),
                text_states=torch.randn(2, 5, 10),
                text_mask=torch.tensor([[True, True, True, False, False], [True] * 5]))


def copy_prior(theirs, ours):
    """From diffusers' PriorTransformer."""
    def copy(source, target):
        target.load_state_dict(source.state_dict())

    for source, target in [(theirs.time_embedding, ours.time_embed), (theirs.proj_in, ours.x_proj),
                           (theirs.embedding_proj, ours.text_embed_proj), (theirs.norm_out, ours.norm_out),
                           (theirs.encoder_hidden_states_proj, ours.text_states_proj),
                           (theirs.proj_to_clip_embeddings, ours.out)]:
        copy(source, target)
    with torch.no_grad():
        ours.query.copy_(theirs.prd_embedding[0, 0])
        ours.positions.copy_(theirs.positional_embedding[0])
    for source, target in zip(theirs.transformer_blocks, ours.blocks, strict=True):
        for part, our_part in [(source.norm1, target.norm_1), (source.norm3, target.norm_2),
                               (source.attn1.to_out[0], target.proj_out), (source.ff.net[0].proj, target.mlp_in),
                               (source.ff.net[2], target.mlp_out)]:
            copy(part, our_part)
        parts = source.attn1.to_q, source.attn1.to_k, source.attn1.to_v
        target.qkv.load_state_dict({key: torch.cat([part.state_dict()[key] for part in parts])
                                    for key in ("weight", "bias")})


def test_equals_that_of_diffusers():
    theirs = randomise(Theirs(num_attention_heads=4, attention_head_dim=8, num_layers=3, embedding_dim=12,
                              num_embeddings=5, additional_embeddings=4))
    ours = erase(PriorTransformer(embed_dim=12, text_dim=12, text_length=5, width=32, layers=3, heads=4))
    copy_prior(theirs, ours)
    x = {**inputs(), "text_states": torch.randn(2, 5, 12)}
    with torch.no_grad():
        expected = theirs(x["x_t"], x["t"], x["text_embed"], x["text_states"], x["text_mask"])
        expected = expected.predicted_image_embedding
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(**x), expected, rtol=0, atol=1e-5)


def test_starts_at_zero_and_can_leave_it():
    assert torch.equal(small()(**inputs()), torch.zeros(2, 12))
    assert randomise(small())(**inputs()).std() > 1e-2


def test_no_token_sees_a_later_one():
    net = randomise(small())
    mask = net._mask(torch.ones(1, 5, dtype=torch.bool))
    x = torch.randn(1, 9, 16)
    before, _ = net.blocks[0](x, mask)
    for position in range(9):
        changed = x.clone()
        changed[:, position] += torch.randn(16)     # not a constant, which the norm would take out
        difference = (net.blocks[0](changed, mask)[0] - before).abs().amax(dim=(0, 2))
        assert torch.equal(difference[:position], torch.zeros(position))
        assert (difference[position:] > 1e-5).all()


def test_a_caption_is_read_once_for_all_steps():
    """Tokens after the text leave its keys and values as they are: the same numbers as with all tokens in one pass."""
    net, x = randomise(small(layers=3)), inputs()
    memory = net.read(x["text_embed"], x["text_states"], x["text_mask"])
    tokens = torch.cat([net.text_states_proj(x["text_states"]), net.text_embed_proj(x["text_embed"])[:, None],
                        net.time_embed(x["t"])[:, None], net.x_proj(x["x_t"])[:, None],
                        net.query.expand(2, 1, -1)], dim=1) + net.positions
    for layer, block in enumerate(net.blocks):
        tokens, own = block(tokens, net._mask(x["text_mask"]))
        torch.testing.assert_close(memory[:, layer], own[:, :, :, :6])
    at_once = net.out(net.norm_out(tokens[:, -1]))
    torch.testing.assert_close(net.denoise(x["x_t"], x["t"], memory, x["text_mask"]), at_once)


@pytest.mark.parametrize("time_token", [True, False])
def test_several_rows_of_a_caption_are_each_what_it_is_alone(time_token):
    """They stand in one sequence, behind text with padding; each caption has a time of its own."""
    net, x = randomise(small(time_token=time_token)), inputs()
    memory = net.read(x["text_embed"], x["text_states"], x["text_mask"])
    x_t, t = torch.randn(2, 3, 12), torch.tensor([[3], [600]]).expand(2, 3)
    together = net.denoise(x_t.flatten(0, 1), t.flatten(), memory, x["text_mask"]).unflatten(0, (2, 3))
    for k in range(3):
        torch.testing.assert_close(together[:, k], net.denoise(x_t[:, k], t[:, k], memory, x["text_mask"]))


def test_padded_text_does_not_matter_and_real_text_does():
    net, x = randomise(small()), inputs()
    out = net(**x)
    padded, real = x["text_states"].clone(), x["text_states"].clone()
    padded[0, 3:] += 1
    real[0, 2] += 1
    assert torch.equal(net(**{**x, "text_states": padded}), out)
    assert not torch.allclose(net(**{**x, "text_states": real})[0], out[0], atol=1e-4)


def test_padding_at_the_end_may_be_left_out():
    net, x = randomise(small()), inputs()
    x["text_mask"] = torch.tensor([[True, True, True, False, False], [True, False, False, False, False]])
    cut = {**x, "text_states": x["text_states"][:, :3], "text_mask": x["text_mask"][:, :3]}
    torch.testing.assert_close(net(**cut), net(**x))
    short = {**x, "text_states": x["text_states"][:, :2], "text_mask": x["text_mask"][:, :2]}
    assert not torch.allclose(net(**short)[0], net(**x)[0], atol=1e-4)


def test_a_text_with_no_real_token_gives_numbers():
    """Every row of the mask keeps one key, so no softmax divides nothing by nothing, forwards or backwards."""
    net, x = randomise(small()), inputs()
    out = net(**{**x, "text_mask": torch.zeros(2, 5, dtype=torch.bool)})
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_every_input_matters():
    net, x = randomise(small()), inputs()
    out = net(**x)
    for name, value in x.items():
        changed = ~value if value.dtype == torch.bool else value + 1
        assert not torch.allclose(net(**{**x, name: changed}), out, atol=1e-4), name


def test_every_parameter_learns():
    net = randomise(small())
    net(**inputs()).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_width_text_and_heads_are_free():
    """Heads narrower than the width, and a text embedding of its own width."""
    net = randomise(small(heads=3, head_dim=2, text_embed_dim=7))
    assert net.blocks[0].qkv.weight.shape == (3 * 3 * 2, 16)
    assert net(**{**inputs(), "text_embed": torch.randn(2, 7)}).shape == (2, 12)


def test_bfloat16_autocast_stays_near_float32():
    net, x = randomise(small()), inputs()
    exact = net(**x)
    with torch.autocast("cpu", torch.bfloat16):
        near = net(**x)
    assert (near - exact).norm() / exact.norm() < 0.03


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_karlo_size():
    with torch.device("meta"):
        net = PriorTransformer(embed_dim=768, text_dim=768, text_length=77, width=2048, layers=20, heads=32)
    assert parameters(net) / 1e9 == pytest.approx(1.02, rel=0.01)


@pytest.mark.parametrize("layers, heads, head_dim", [(20, 32, 64), (10, 16, 32)])
def test_kandinsky_and_eclipse_have_the_size_of_diffusers(layers, heads, head_dim):
    with torch.device("meta"):
        net = PriorTransformer(embed_dim=1280, text_dim=1280, text_length=77, width=heads * head_dim, layers=layers,
                               heads=heads, head_dim=head_dim)
        theirs = Theirs(num_attention_heads=heads, attention_head_dim=head_dim, num_layers=layers, embedding_dim=1280)
    assert parameters(net) == parameters(theirs) - 2 * 1280     # less clip_mean and clip_std, which are no network's


@pytest.mark.parametrize("changed, message", [
    (dict(x_t=torch.zeros(2, 11)), r"x_t has shape \(2, 11\), the network takes \(2, 12\)"),
    (dict(x_t=torch.zeros(3, 12)), r"x_t has shape \(3, 12\), the network takes \(2, 12\)"),
    (dict(t=torch.tensor(3)), r"t has shape \(\), the network takes \(2,\)"),
    (dict(text_embed=torch.zeros(2, 10)), r"text_embed has shape \(2, 10\), the network takes \(2, 12\)"),
    (dict(text_states=torch.zeros(2, 6, 10)), r"text_states has shape \(2, 6, 10\), the network takes \(2, 5, 10\)"),
    (dict(text_mask=torch.ones(2, 5)), "text_mask must be boolean"),
])
def test_wrong_inputs_raise(changed, message):
    with pytest.raises(ValueError, match=message) as error:
        small()(**{**inputs(), **changed})
    assert "\n" not in str(error.value)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads=3 does not divide width=16: set head_dim"):
        small(heads=3)
