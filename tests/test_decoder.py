import math

import pytest
import torch
from networks.randomness import randomise

from unclip.decoder import Decoder
from unclip.diffusion import SAMPLERS, SeededNoise, draw_timesteps
from unclip.stage import Start

LEARNED = {"learned_variance": True, "vlb_weight": 1e-3, "prediction": "eps"}
KARLO = {
    "unet": {"channels": 320, "multipliers": [1, 2, 3, 4], "num_res_blocks": 3, "attention_levels": [1, 2, 3],
             "middle_attention": True, "head_dim": 64, "context_dim": 1536},
    "image_size": 64, "embed_dim": 768, "text_dim": 768, "image_tokens": 4, "spacing": "linspace", **LEARNED,
}  # fmt: skip


def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def embed():
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(4))


def record(part):
    calls, network = [], part.denoiser.network

    def spy(x_t, t, **cond):
        calls.append({"x_t": x_t, "t": t, **cond})
        return network(x_t, t, **cond)

    part.denoiser.network = spy
    return calls


def sampled(decoder, *conditions, **options):
    return decoder.sample(*conditions, noise=SeededNoise([1, 2, 3]), **{"num_inference_steps": 3, **options})


# ---- sampling --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps, scale", [(1, 1.0), (1, 3.0), (3, 0.0), (3, 3.0)])
@pytest.mark.parametrize("options", [{}, LEARNED, {"text_dim": 16}, {"image_tokens": 0}])
def test_every_form_draws_with_every_sampler(make_decoder, embed, text, sampler, steps, scale, options):
    texts = text if "text_dim" in options else ()
    images = sampled(make_decoder(**options), embed, *texts, sampler=sampler, num_inference_steps=steps,
                     guidance_scale=scale)  # fmt: skip
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert (images[0] - images[1]).abs().max() > 0.01


def test_conditions_are_not_modified(make_decoder, embed, text):
    before = embed.clone(), [{k: v.clone() for k, v in part.items()} for part in text]
    sampled(make_decoder(text_dim=16), embed, *text, guidance_scale=3.0)
    assert torch.equal(embed, before[0])
    for part, copy in zip(text, before[1]):
        assert part.keys() == copy.keys()
        assert all(torch.equal(part[k], copy[k]) for k in part)


def test_guidance_contrasts_with_the_learned_null_and_the_empty_caption(make_decoder, embed, text):
    decoder = make_decoder(text_dim=16)
    captions, empty = text
    calls = record(decoder)
    sampled(decoder, embed, captions, empty, guidance_scale=3.0, num_inference_steps=4)
    assert [len(call["x_t"]) for call in calls] == [6] * 4  # once a step, for both halves
    cond = decoder.read(embed, **captions)
    null = decoder.read(decoder.null_image.expand(3, 16), **{k: v.expand_as(captions[k]) for k, v in empty.items()})
    for call in calls:
        assert torch.equal(call["x_t"][:3], call["x_t"][3:])
        for key in cond:
            assert torch.equal(call[key][:3], cond[key]) and torch.equal(call[key][3:], null[key])


def test_padding_at_the_end_of_all_captions_is_not_read(make_decoder, embed, text):
    decoder = make_decoder(text_dim=16)
    captions, empty = text
    captions["text_mask"] = torch.arange(12) < torch.tensor([[4], [6], [3]])
    calls = record(decoder)
    sampled(decoder, embed, captions, empty, guidance_scale=3.0)
    assert {call["context_kv"].shape[1] for call in calls} == {4 + 6}
    first = {k: v[:3] for k, v in calls[0].items()}
    padded = {"x_t": first["x_t"], "t": first["t"], **decoder.read(embed, **captions)}
    with torch.no_grad():
        torch.testing.assert_close(decoder.network(**first), decoder.network(**padded))


def test_conditions_are_read_once(make_decoder, embed, text):
    """What depends on caption and embedding alone is not computed in every step: only the U-Net runs."""
    decoder = make_decoder(text_dim=16)
    runs = {"unet.middle.0.attention.qkv": 0, "unet.middle.0.attention.context_kv": 0, "text_to_tokens": 0, "image_to_time": 0}

    def count(name):
        return lambda *_: runs.update({name: runs[name] + 1})

    for name in runs:
        decoder.get_submodule(name).register_forward_hook(count(name))
    sampled(decoder, embed, *text, guidance_scale=3.0, num_inference_steps=4)
    assert list(runs.values()) == [4, 2, 2, 2]  # once a step; once for the condition, once for its absence


def test_scale_one_is_not_doubled(make_decoder, embed):
    decoder = make_decoder()
    calls = record(decoder)
    sampled(decoder, embed, guidance_scale=1.0, num_inference_steps=4)
    assert [len(call["x_t"]) for call in calls] == [3] * 4


def test_learned_variance_is_not_guided(make_decoder, embed):
    """Where both halves agree on eps and differ in the variance, the scale must not matter."""
    decoder = make_decoder(**LEARNED)

    def network(x_t, t, image_embed):  # as if the condition were the embedding itself
        variance = torch.tanh(image_embed.mean(1))[:, None, None, None].expand_as(x_t)
        return torch.cat([0.5 * x_t, variance], dim=1)

    decoder.read, decoder.denoiser.network = dict, network
    unguided, guided = (sampled(decoder, embed, sampler="ddpm", guidance_scale=s) for s in (1.0, 8.0))
    torch.testing.assert_close(guided, unguided)
    # ... and the variance does matter
    assert not torch.allclose(sampled(decoder, embed + 1, sampler="ddpm", guidance_scale=8.0), guided, atol=1e-3)


def test_a_given_x_T_is_where_sampling_starts(make_decoder, embed):
    decoder = make_decoder()
    x_T = torch.randn(3, 3, 8, 8, generator=generator())
    calls = record(decoder)
    sampled(decoder, embed, start=Start(x_t=x_T), guidance_scale=1.0)
    assert torch.equal(calls[0]["x_t"], x_T)


def test_text_is_asked_for(make_decoder, embed):
    with pytest.raises(ValueError, match="give text and null_text"):
        sampled(make_decoder(text_dim=16), embed)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("options", [{}, {"text_dim": 16, **LEARNED, "prediction": "v"}])
def test_half_precision_draws_about_the_same(make_decoder, embed, text, dtype, tolerance, options):
    decoder = make_decoder(**options)
    texts = text if "text_dim" in options else ()
    full = sampled(decoder, embed, *texts, sampler="ddim")
    half = sampled(decoder.to(dtype=dtype, memory_format=torch.channels_last), embed, *texts, sampler="ddim")
    assert half.dtype == torch.float32
    assert (half - full).norm() < tolerance * full.norm()


# ---- how it is conditioned -------------------------------------------------------------------------------------------

def raw(decoder, **cond):
    x_t = torch.randn(3, 3, 8, 8, generator=generator())
    with torch.no_grad():
        return decoder.network(x_t, torch.tensor([10, 500, 900]), **decoder.read(**cond))


def test_the_image_embedding_enters_by_two_ways(make_decoder, embed):
    for closed in (["image_to_time"], ["image_to_tokens"], ["image_to_time", "image_to_tokens"]):
        decoder = make_decoder()
        for name in closed:
            torch.nn.init.zeros_(getattr(decoder, name).weight)
        moved = (raw(decoder, image_embed=embed) - raw(decoder, image_embed=-embed)).abs().max()
        assert moved == 0 if len(closed) == 2 else moved > 1e-3


def test_the_caption_enters_by_two_ways_and_its_padding_by_none(make_decoder, embed, text):
    decoder, captions = make_decoder(text_dim=16), text[0]
    out = raw(decoder, image_embed=embed, **captions)
    padding = (~captions["text_mask"])[..., None]
    assert padding.any()
    padded = {**captions, "text_states": captions["text_states"] + 5 * padding}
    torch.testing.assert_close(raw(decoder, image_embed=embed, **padded), out)
    for key in ("text_embed", "text_states"):
        other = raw(decoder, image_embed=embed, **{**captions, key: captions[key].roll(1, -1)})
        assert (other - out).abs().max() > 1e-3


def test_context_width_follows_or_is_given(make_decoder):
    unet = {"channels": 32, "multipliers": [1], "num_res_blocks": 1, "attention_levels": [0], "middle_attention": True,
            "head_dim": 16}  # fmt: skip
    assert make_decoder(unet=unet).unet.context_dim == 16
    assert make_decoder(unet=unet, text_dim=24).unet.context_dim == 24
    assert make_decoder(unet=unet, image_tokens=0).unet.context_dim is None
    assert make_decoder(unet={**unet, "context_dim": None}).unet.context_dim == 16
    wide = make_decoder(unet={**unet, "context_dim": 40}, text_dim=24, image_tokens=3)
    assert wide.text_to_tokens.weight.shape == (40, 24)
    assert wide.image_to_tokens.weight.shape == (3 * 40, 16)


@pytest.mark.parametrize("options, says", [
    ({"learned_variance": True}, "vlb_weight"),
    ({"vlb_weight": 0.1}, "vlb_weight"),
    ({"image_size": 9}, "image_size=9"),
    ({"prediction": "score"}, "score"),
    ({"schedule": "cubic"}, "cubic"),
])  # fmt: skip
def test_options_that_contradict_each_other(make_decoder, options, says):
    with pytest.raises(ValueError, match=says):
        make_decoder(**options)


def test_a_context_that_nothing_fills_is_refused(make_decoder):
    unet = {"channels": 32, "multipliers": [1], "num_res_blocks": 1, "attention_levels": [0], "middle_attention": True,
            "head_dim": 16, "context_dim": 8}  # fmt: skip
    with pytest.raises(ValueError, match="context_dim=8"):
        make_decoder(unet=unet, image_tokens=0)


# ---- the loss --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_loss_is_algorithm_1(batch, make_decoder, prediction):
    decoder = make_decoder(prediction=prediction, image_drop=0.0)
    loss, time = decoder.loss(batch, generator())

    x_0 = batch["image"].double() / 255 * 2 - 1
    draws = generator()
    t = draw_timesteps(3, 1000, draws)
    eps = torch.randn(3, 3, 8, 8, generator=draws).double()
    f = [math.cos((s / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for s in range(1001)]  # improved DDPM, eq. 17
    alpha_bar = torch.tensor([f[s + 1] / f[0] for s in t.tolist()], dtype=torch.float64)[:, None, None, None]
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
    with torch.no_grad():
        said = decoder.network(x_t.float(), t, **decoder.read(batch["image_embed"]))
    meant = {"eps": eps, "x_0": x_0, "v": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0}[prediction]
    torch.testing.assert_close(loss.double(), ((said - meant) ** 2).mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(time, t / 1000)


def test_training_draws_timesteps_of_the_density_and_validation_uniform_ones(batch, make_decoder):
    decoder = make_decoder(timestep_density="logit_normal")
    for training, density in ((True, "logit_normal"), (False, "uniform")):
        time = decoder.train(training).loss(batch, generator())[1]
        assert torch.equal(time, draw_timesteps(3, 1000, generator(), density=density) / 1000)


def moved(decoder, batch, key):
    """By how much the loss of each sample changes when a condition of the batch does."""
    other = {**batch, key: batch[key].roll(1, -1)}
    return (decoder.loss(batch, generator())[0] - decoder.loss(other, generator())[0]).abs()


def test_dropped_conditions_do_not_matter_and_kept_ones_do(batch, make_decoder):
    keys = ["image_embed", "text_embed", "null_text_embed"]
    for image_drop, text_drop in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        decoder = make_decoder(text_dim=16, image_drop=image_drop, text_drop=text_drop)
        matters = [moved(decoder, batch, key).min().item() > 1e-6 for key in keys]
        stands = [moved(decoder, batch, key).max().item() == 0 for key in keys]
        assert matters == [image_drop == 0, text_drop == 0, text_drop == 1]
        assert stands == [not m for m in matters]


@pytest.mark.parametrize("image_drop", [0.0, 1.0])
def test_the_null_image_learns_only_where_it_stands_in(batch, make_decoder, image_drop):
    decoder = make_decoder(image_drop=image_drop)
    decoder.loss(batch, generator())[0].mean().backward()
    gradient = decoder.null_image.grad
    learned = gradient is not None and gradient.abs().max().item() > 0
    assert learned == (image_drop == 1)


def test_the_shares_of_dropped_conditions(make_decoder):
    decoder = make_decoder(text_dim=16, image_drop=0.2, text_drop=0.5)
    n = 2000
    batch = {
        "image": torch.zeros(n, 3, 8, 8, dtype=torch.uint8), "image_embed": torch.full((n, 16), 9.0),
        "text_embed": torch.ones(n, 16), "text_states": torch.ones(n, 12, 16),
        "text_mask": torch.ones(n, 12, dtype=torch.bool),
    }  # fmt: skip
    batch |= {f"null_{k}": torch.zeros_like(v[:1]) for k, v in batch.items() if k.startswith("text_")}
    seen = {}
    decoder.read, decoder.denoiser.network = dict, lambda x_t, t, **cond: seen.update(cond) or x_t
    decoder.loss(batch, generator())
    image = (seen["image_embed"] != 9).any(1)
    text = seen["text_embed"].sum(1) == 0
    torch.testing.assert_close(seen["image_embed"][image], decoder.null_image.expand(int(image.sum()), 16))
    assert torch.equal(~seen["text_mask"].any(1), text)
    for dropped, share in ((image, 0.2), (text, 0.5), (image & text, 0.1)):  # and independently
        assert abs(dropped.float().mean() - share) < 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize("option, value", [
    ("schedule", "linear"), ("num_timesteps", 500), ("prediction", "eps"), ("weighting", "min_snr"),
    ("image_drop", 1.0), ("text_drop", 1.0),
])  # fmt: skip
def test_every_training_option_is_read(batch, make_decoder, option, value):
    base = {"text_dim": 16, "image_drop": 0.0, "text_drop": 0.0}
    loss = make_decoder(**base).loss(batch, generator())[0]
    assert not torch.allclose(make_decoder(**{**base, option: value}).loss(batch, generator())[0], loss, rtol=1e-3)


def test_the_variational_weight_is_read(batch, make_decoder):
    light, heavy = ({**LEARNED, "vlb_weight": w} for w in (1e-3, 1e-1))
    assert (make_decoder(**heavy).loss(batch, generator())[0] > make_decoder(**light).loss(batch, generator())[0]).all()


def test_spacing_is_read(make_decoder, embed):
    seen = {}
    for spacing in ("linspace", "leading", "trailing"):
        decoder = make_decoder(spacing=spacing)
        calls = record(decoder)
        sampled(decoder, embed, num_inference_steps=4)
        seen[spacing] = [int(call["t"][0]) for call in calls]
    assert seen == {"linspace": [999, 666, 333, 0], "leading": [750, 500, 250, 0], "trailing": [999, 749, 499, 249]}


# ---- Karlo's shape ---------------------------------------------------------------------------------------------------

def test_karlos_decoder_has_its_size():
    with torch.device("meta"):
        decoder = Decoder(**KARLO)
    unet = sum(p.numel() for p in decoder.unet.parameters())
    assert abs(unet - 885e6) < 1e6
    assert abs(sum(p.numel() for p in decoder.parameters()) - unet - 7.9e6) < 0.05e6


def test_karlos_shape_in_small_draws_and_learns(embed, text, batch):
    unet = {**KARLO["unet"], "channels": 32, "multipliers": [1, 2], "num_res_blocks": 1, "attention_levels": [1],
            "head_dim": 16, "context_dim": 24}  # fmt: skip
    decoder = randomise(Decoder(**{**KARLO, "unet": unet, "image_size": 8, "embed_dim": 16, "text_dim": 16}))
    images = sampled(decoder, embed, *text, sampler="ddpm", guidance_scale=8.0)
    assert images.isfinite().all()
    decoder.loss(batch, generator())[0].mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())
