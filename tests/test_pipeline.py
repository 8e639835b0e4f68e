import json
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLIP_CONFIG, CONVOLUTIONS
from PIL import Image
from safetensors.torch import load_file, save_file

import unclip
from unclip.data.captions import ClassCaptions
from unclip.diffusion import SeededNoise
from unclip.errors import UserError
from unclip.openclip.building import build_clip, save_clip
from unclip.pipeline import Settings, UnCLIP
from unclip.seeds import MAX_SEED, seeds_of_draws


def draw(model, prompts="a photo of a dog", num_images=1, seed=0, batch_size=16, **settings):
    return model.sample(prompts, num_images, seed, model.settings(**settings), batch_size=batch_size)


# ---- pictures --------------------------------------------------------------------------------------------------------

def test_the_readmes_lines(model_files):
    images = unclip.UnCLIP.from_pretrained(model_files)("a photo of a dog", num_images=2, seed=0)
    assert [type(image) for image in images] == [Image.Image] * 2
    assert [(image.size, image.mode) for image in images] == [((8, 8), "RGB")] * 2


def test_pil_images_are_the_sampled_ones(model):
    (image,) = model("a dog")
    expected = ((draw(model, "a dog")[0] + 1) * 127.5).permute(1, 2, 0)
    assert np.abs(np.asarray(image, dtype=float) - expected.numpy()).max() <= 0.501


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_the_same_seed_is_the_same_picture(model, sampler):
    first = draw(model, num_images=3, seed=7, sampler=sampler)
    assert torch.equal(first, draw(model, num_images=3, seed=7, sampler=sampler))
    assert (first - draw(model, num_images=3, seed=8, sampler=sampler)).abs().amax((1, 2, 3)).min() > 0.01


def test_picture_k_has_seed_k_in_a_batch_of_any_size(model):
    together = draw(model, num_images=4, seed=7, sampler="ddpm")
    one_by_one = torch.cat([draw(model, seed=7 + k, sampler="ddpm") for k in range(4)])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01
    for batch_size in (1, 3):
        split = draw(model, num_images=4, seed=7, batch_size=batch_size, sampler="ddpm")
        torch.testing.assert_close(split, together, rtol=0, atol=1e-4)


def test_prompts_come_in_order_and_share_their_seeds(model):
    both = draw(model, ["a red car", "a dog"], num_images=2, seed=3, batch_size=3)
    for k, (prompt, seed) in enumerate([("a red car", 3), ("a red car", 4), ("a dog", 3), ("a dog", 4)]):
        torch.testing.assert_close(both[k : k + 1], draw(model, prompt, seed=seed), rtol=0, atol=1e-4)
    assert (both[0] - both[2]).abs().max() > 0.01


def test_the_parts_run_in_a_row(model):
    """encode, prior, decoder by hand, with this model's settings."""
    settings = model.settings(guidance_scale=3.0, prior_guidance_scale=2.0)
    encoded = model.clip.encode_text(["a dog", ""]).batch()
    text, null = {k: v[:1] for k, v in encoded.items()}, {k: v[1:] for k, v in encoded.items()}
    embed = model.prior.sample(text, null, noise=SeededNoise([10]), num_inference_steps=2, guidance_scale=2.0)
    image = model.decoder.sample(embed, noise=SeededNoise([11]), num_inference_steps=3, guidance_scale=3.0)
    torch.testing.assert_close(model.sample("a dog", 1, 5, settings), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("setting, value", [
    ("num_inference_steps", 5), ("guidance_scale", 4.0), ("prior_num_inference_steps", 5),
    ("prior_guidance_scale", 3.0), ("sampler", "ddpm"), ("prior_sampler", "ddim"),
])  # fmt: skip
def test_every_setting_changes_the_picture(model, setting, value):
    assert (draw(model, num_images=2) - draw(model, num_images=2, **{setting: value})).abs().max() > 1e-3


def test_the_number_of_prior_samples_is_a_setting(model):
    one, many = (draw(model, num_images=8, prior_num_samples=n) for n in (1, 4))
    changed = (one - many).abs().amax((1, 2, 3)) > 1e-3
    assert changed.any()


def test_a_prompts_embedding_is_told_from_other_classes(model):
    """Of the prior's draws the one with the largest margin, for prompts that name a class; the nearest, for others."""
    classes = ClassCaptions(names=[["dog"], ["cat"], ["bridge"]], nouns=[["animal"], ["animal"], []])
    knowing = UnCLIP(model.clip, model.prior, model.decoder, model.defaults, classes=classes)
    settings, prompts = model.settings(prior_num_samples=6), ["a dog", "a red car"]
    found = knowing.image_embeddings(knowing.texts(prompts), [3, 4], settings)
    text = model.clip.encode_text([*prompts, "", *(f"a photo of a {name}." for name in ("dog", "cat", "bridge"))])
    captions, batch = F.normalize(text.embed, dim=-1), text.batch()
    noise = SeededNoise([6, 8])
    steps = settings.prior_num_inference_steps
    sampled = {"num_inference_steps": steps, "guidance_scale": settings.prior_guidance_scale, "num_samples": 1,
               "sampler": settings.prior_sampler}  # fmt: skip
    of = {k: v[:2] for k, v in batch.items()}, {k: v[2:3] for k, v in batch.items()}
    draws = torch.stack([model.prior.sample(*of, noise=noise, **sampled) for _ in range(6)])                # (6, 2, D)
    cosines = F.normalize(draws, dim=-1) @ captions.T                                                       # (6, 2, 6)
    dog, car = (cosines[:, 0, 0] - cosines[:, 0, 4:].amax(-1)).argmax(), cosines[:, 1, 1].argmax()
    torch.testing.assert_close(found, torch.stack([draws[dog, 0], draws[car, 1]]), rtol=0, atol=1e-4)
    assert dog != cosines[:, 0, 0].argmax()  # else the test could not tell the margin from nearness


def test_of_several_pictures_the_one_is_kept_that_is_told_best_from_other_classes(model):
    classes = ClassCaptions(names=[["dog"], ["cat"], ["bridge"]], nouns=[[], [], []])
    knowing = UnCLIP(model.clip, model.prior, model.decoder, model.defaults, classes=classes)
    prompts, seeds = ["a dog", "a red car"], [5, 6]
    captions = [*prompts, *(f"a photo of a {name}." for name in ("dog", "cat", "bridge"))]
    text = F.normalize(model.clip.encode_text(captions).embed, dim=-1)
    one_by_one = torch.stack([
        torch.cat([draw(knowing, prompt, seed=s) for prompt, s in zip(prompts, each)]) for each in seeds_of_draws(seeds, 8)
    ])  # (8, 2, 3, S, S)
    seen = F.normalize(model.clip.encode_image(one_by_one.flatten(0, 1)), dim=-1).unflatten(0, (8, 2)) @ text.T
    dog, car = (seen[:, 0, 0] - seen[:, 0, 3:].amax(-1)).argmax(), seen[:, 1, 1].argmax()
    kept = knowing.sample_each(list(zip(prompts, seeds)), knowing.settings(num_samples=8))
    torch.testing.assert_close(kept, torch.stack([one_by_one[dog, 0], one_by_one[car, 1]]), rtol=0, atol=1e-4)
    assert dog != seen[:, 0, 0].argmax() and {int(dog), int(car)} != {0}  # else this could not tell the margin


def test_several_pictures_are_of_different_seeds_and_the_first_of_its_own():
    first, *others = seeds_of_draws([5, 6], 4)
    assert first == [5, 6]
    assert len({seed for each in (first, *others) for seed in each}) == 8
    assert others == list(seeds_of_draws([5, 6], 9))[1:4]  # the same, however many are drawn
    assert all(0 <= seed <= MAX_SEED for each in others for seed in each)


def test_what_is_drawn_from_given_embeddings_or_pictures_is_drawn_once(model):
    image = Image.new("RGB", (8, 8), "red")
    for method, given in [("vary", (image,)), ("redraw", (image, "a dog"))]:
        one, many = (getattr(model, method)(*given, num_images=2, num_samples=n) for n in (1, 3))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, many))


def test_a_decoder_that_reads_the_caption(model, make_decoder):
    reading = UnCLIP(model.clip, model.prior, make_decoder(text_dim=16), model.defaults)
    torch.nn.init.zeros_(reading.decoder.image_to_time.weight)
    torch.nn.init.zeros_(reading.decoder.image_to_tokens.weight)  # all it knows comes from the caption
    dog, cat = draw(reading, "a dog"), draw(reading, "a cat")
    assert (dog - cat).abs().max() > 1e-3
    torch.testing.assert_close(draw(reading, ["a dog", "a cat"]), torch.cat([dog, cat]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model_files, model, dtype):
    half = UnCLIP.from_pretrained(model_files, dtype=dtype)
    assert (half.prior.dtype, half.decoder.dtype, half.clip.dtype) == (dtype, dtype, torch.float32)
    image, full = draw(half, num_images=4), draw(model, num_images=4)
    assert (image - full).norm() < 0.15 * full.norm()


@pytest.mark.parametrize("num_samples", [1, 3])
def test_progress_rises_to_exactly_one(model, num_samples):
    seen = []
    model("a dog", num_images=5, batch_size=2, num_samples=num_samples, callback=lambda step: seen.append(step.share))
    steps = num_samples * (2 + 3)  # of the prior, which draws its samples at once, and of the decoder
    assert len(seen) == steps * 3  # three batches
    assert seen == sorted(seen) and len(set(seen)) == len(seen)
    assert seen[0] == pytest.approx(2 / (5 * steps)) and seen[-1] == 1


def test_embeddings_may_be_given_in_the_place_of_the_priors(model):
    """The prior's own, given, draw the same pictures; the prior is not asked, and progress is that of the rest."""
    settings, jobs = model.settings(), [("a dog", 3), ("a cat", 4), ("a dog", 5)]
    prompts, seeds = zip(*jobs)
    embeds = model.image_embeddings(model.texts(prompts), seeds, settings)
    seen = []
    drawn = model.sample_each(jobs, settings, image_embed=embeds, batch_size=2, callback=lambda step: seen.append(step.share))
    torch.testing.assert_close(drawn, model.sample_each(jobs, settings, batch_size=2), rtol=0, atol=1e-4)
    assert len(seen) == 2 * 3 and seen[-1] == 1
    assert (model.sample_each(jobs, settings, image_embed=-embeds) - drawn).abs().max() > 1e-3


# ---- upsamplers ------------------------------------------------------------------------------------------------------

def test_stages_run_in_a_row_and_can_be_cut(cascade):
    assert cascade.stages == ["base", "upsampler-1", "upsampler-2"]
    options = {"num_images": 2, "seed": 3, "upsampler_num_inference_steps": 2}
    base, first, second = (draw(cascade, **options, stop_after=stage) for stage in cascade.stages)
    assert [x.shape for x in (base, first, second)] == [(2, 3, 8, 8), (2, 3, 16, 16), (2, 3, 64, 64)]
    assert torch.equal(draw(cascade, **options), second)
    assert (first[0] - first[1]).abs().max() > 0.01 and second.abs().max() <= 1


def test_a_stage_draws_from_the_one_before_it_and_from_the_embedding(cascade):
    settings = cascade.settings(upsampler_num_inference_steps=2)
    texts = cascade.texts(["a dog"])
    embed = cascade.image_embeddings(texts, [3], settings)
    before, changed = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)
    drawn = [cascade.enlarge(cascade.upsamplers[1], images, e, SeededNoise([1]), settings)
             for images, e in ((before, embed), (changed, embed), (before, -embed))]  # fmt: skip
    assert drawn[0].shape == (1, 3, 64, 64)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3 and (drawn[0] - drawn[2]).abs().max() > 1e-3


def test_upsamplers_enlarge_the_picture_that_is_kept_with_its_embedding_and_their_own_noise(cascade):
    settings = cascade.settings(upsampler_num_inference_steps=2, upsampler_noise_level=0.1, num_samples=4)
    jobs = [("a dog", 3), ("a cat", 4), ("a dog", 6)]
    kept = cascade.sample_each(jobs, settings)
    torch.testing.assert_close(cascade.sample_each(jobs, settings, batch_size=2), kept, rtol=0, atol=1e-4)
    alone = settings.model_copy(update={"num_samples": 1})
    of_others = 0
    for (prompt, seed), picture in zip(jobs, kept):
        texts, found = cascade.texts([prompt]), []
        for k, (own,) in enumerate(seeds_of_draws([seed], 4)):
            embed = cascade.image_embeddings(texts, [own], alone)
            base = cascade.decode(embed, texts, [own], alone)
            near = F.cosine_similarity(cascade.clip.encode_image(base), texts.text["text_embed"]).item()
            found.append((near, k, embed, base))
        _, k, embed, image = max(found, key=lambda each: each[0])
        of_others += k > 0
        for j, upsampler in enumerate(cascade.upsamplers):
            noise = SeededNoise([random.Random(f"upsampler {j} of {seed}").getrandbits(32)])
            image = cascade.enlarge(upsampler, image, embed, noise, alone)
        torch.testing.assert_close(image[0], picture, rtol=0, atol=1e-3)
    assert of_others


def test_offloaded_parts_are_where_they_run_for_as_long_as_they_run(cascade, monkeypatch):
    """`runs_on` is the CPU here, so that what moves is seen and the pictures stay the same."""
    before, moves = draw(cascade), []
    for name in ("clip", "prior", "decoder"):
        monkeypatch.setattr(getattr(cascade, name), "to", lambda device, name=name: moves.append((name, str(device))))
    for k, upsampler in enumerate(cascade.upsamplers, 1):
        monkeypatch.setattr(upsampler, "to", lambda device, name=f"upsampler-{k}": moves.append((name, str(device))))
    monkeypatch.setattr(cascade, "runs_on", torch.device("cpu:0"))
    assert torch.equal(draw(cascade), before)
    order = ["clip", "prior", *(stage.replace("base", "decoder") for stage in cascade.stages)]
    assert moves == [(name, place) for name in order for place in ("cpu:0", "cpu")]


def test_offloaded_clip_reads_names_once_and_looks_at_all_pictures_of_a_batch_at_once(model, monkeypatch):
    classes = ClassCaptions(names=[["dog"], ["cat"]], nouns=[[], []])
    knowing, moves = UnCLIP(model.clip, model.prior, model.decoder, model.defaults, classes=classes), []
    before = draw(knowing, "a dog", num_images=2, num_samples=3, prior_num_samples=2)
    knowing.rivals.embed = None
    monkeypatch.setattr(model.clip, "to", lambda device: moves.append(str(device)))
    monkeypatch.setattr(knowing, "runs_on", torch.device("cpu:0"))
    assert torch.equal(draw(knowing, "a dog", num_images=2, num_samples=3, prior_num_samples=2), before)
    assert moves == ["cpu:0", "cpu"] * 3  # the prompt, the names, the pictures
    draw(knowing, "a dog", prior_num_samples=2)
    assert moves == ["cpu:0", "cpu"] * 4  # a prompt


def test_a_part_that_fails_leaves_the_device_too(model, monkeypatch):
    moves = []
    monkeypatch.setattr(model.decoder, "to", lambda device: moves.append(str(device)))
    monkeypatch.setattr(model, "runs_on", torch.device("cpu:0"))
    with pytest.raises(ZeroDivisionError), model.running(model.decoder):
        1 / 0
    assert moves == ["cpu:0", "cpu"]


def test_a_model_of_which_one_part_at_a_time_is_on_the_device(model_files, model):
    offloaded = UnCLIP.from_pretrained(model_files, device=torch.device("cpu"), offload=True)
    assert offloaded.runs_on == torch.device("cpu") and model.runs_on is None
    assert torch.equal(draw(offloaded), draw(model))


def test_upsampled_pictures_do_not_depend_on_the_batch(cascade):
    options = {"upsampler_num_inference_steps": 2, "upsampler_noise_level": 0.1, "stop_after": "upsampler-1", "sampler": "ddpm"}
    together = draw(cascade, num_images=3, seed=7, **options)
    split = draw(cascade, num_images=3, seed=7, batch_size=1, **options)
    torch.testing.assert_close(split, together, rtol=0, atol=1e-4)


@pytest.mark.parametrize("setting, value", [
    ("upsampler_num_inference_steps", 3), ("upsampler_sampler", "ddpm"), ("upsampler_noise_level", 0.1), ("upsampler_blur", 0.5),
    ("upsampler_grain", 0.1),
])  # fmt: skip
def test_every_setting_of_the_upsamplers_changes_the_picture(cascade, setting, value):
    options = {"stop_after": "upsampler-1", "upsampler_num_inference_steps": 2}
    assert (draw(cascade, **options) - draw(cascade, **{**options, setting: value})).abs().max() > 1e-3


def test_progress_counts_the_stages_that_run(cascade):
    for stage, steps in (("base", 2 + 3), ("upsampler-1", 2 + 3 + 2), (None, 2 + 3 + 4)):
        seen = []
        cascade("a dog", callback=lambda step: seen.append(step.share), upsampler_num_inference_steps=2, stop_after=stage)
        assert len(seen) == steps and seen[-1] == 1


def test_each_upsampler_may_have_steps_of_its_own(cascade):
    def steps(of, **settings):
        return draw(cascade, upsampler_num_inference_steps=of, **settings)

    settings = cascade.settings(upsampler_num_inference_steps=[3, 2])
    assert torch.equal(steps([3, 2], stop_after="upsampler-1"), steps(3, stop_after="upsampler-1"))
    assert [settings.upsampler_steps(k) for k in range(3)] == [3, 2, 2]  # the last for those after it
    assert torch.equal(steps([2, 2]), steps(2)) and not torch.equal(steps([2, 3]), steps(2))
    seen = []
    cascade("a dog", callback=lambda step: seen.append(step.share), upsampler_num_inference_steps=[3, 1])
    assert len(seen) == 2 + 3 + 3 + 1 and seen[-1] == 1


@pytest.mark.parametrize("setting, name, given, taken", [
    ("upsampler_noise_level", "noise_level", 0.3, [0.3, 0.2]), ("upsampler_grain", "grain", 0.3, [0.3, 0.2]),
    ("upsampler_grain", "grain", [0.1, 0], [0.1, 0]), ("upsampler_grain", "grain", [0.1], [0.1, 0.1]),
])  # fmt: skip
def test_a_stage_takes_the_strength_that_it_was_trained_for(cascade, monkeypatch, setting, name, given, taken):
    seen = []
    for upsampler in cascade.upsamplers:
        draw_it = upsampler.sample
        monkeypatch.setattr(upsampler, "sample", lambda *a, f=draw_it, **k: seen.append(k[name]) or f(*a, **k))
    draw(cascade, **{setting: given}, upsampler_num_inference_steps=1)
    assert seen == taken


@pytest.mark.parametrize("settings, says", [
    ({"stop_after": "upsampler-3"}, "no stage 'upsampler-3': choose base, upsampler-1, upsampler-2"),
    ({"upsampler_num_inference_steps": 0}, "upsampler_num_inference_steps = 0"),
    ({"upsampler_num_inference_steps": 1001}, "1 to 1000"),
    ({"upsampler_num_inference_steps": [1, 1001]}, "1 to 1000"), ({"upsampler_num_inference_steps": []}, "at least 1 step"),
    ({"upsampler_num_inference_steps": [2, 0]}, "[2, 0]: at least 1 step"),
    ({"upsampler_noise_level": 0.35}, "upsampler_noise_level: choose 0 to 0.3"),
    ({"upsampler_grain": [0.1, 0.35]}, "upsampler_grain: choose 0 to 0.3"),
    ({"upsampler_grain": 1}, "upsampler_grain = 1.0: from 0 to below 1"), ({"upsampler_grain": []}, "from 0 to below 1"),
    ({"upsampler_blur": 0.7}, "upsampler_blur: choose 0 to 0.6"),
    ({"upsampler_blur": -1}, "upsampler_blur"),
])  # fmt: skip
def test_upsampler_settings_out_of_range(cascade, settings, says):
    with pytest.raises(UserError) as error:
        cascade("a dog", **settings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_upsamplers_has_one_stage(model):
    assert model.stages == ["base"] and torch.equal(draw(model, stop_after="base"), draw(model))
    with pytest.raises(UserError, match="no stage 'upsampler-1': choose base"):
        draw(model, stop_after="upsampler-1")


def test_stages_that_do_not_fit_are_refused(cascade, make_decoder):
    parts = cascade.clip, cascade.prior, cascade.decoder, cascade.defaults, frozenset()
    with pytest.raises(UserError, match="upsampler-1 takes pictures of 16x16, the stage before it draws 8x8"):
        UnCLIP(*parts, cascade.upsamplers[1:])
    other = unclip.Upsampler(unet=CONVOLUTIONS, image_size=16, scale=2, embed_dim=9)
    with pytest.raises(UserError, match="upsampler-1 and the prior were trained for different CLIPs"):
        UnCLIP(*parts, [other])


# ---- the text --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt", ["", "a dog", "dog " * 50])
def test_text_tokens_have_start_and_end_markers(model, prompt):
    """And CLIP pools the state of the end marker, also where the prompt was cut."""
    clip = model.clip
    tokens, encoded = clip.tokenize([prompt])[0], clip.encode_text([prompt])
    end = int((tokens == 49407).nonzero()[0])
    assert tokens[0] == 49406
    assert end == min(len(prompt.split()) + 1, clip.context_length - 1)
    assert encoded.mask[0].tolist() == [k <= end for k in range(clip.context_length)]
    pooled = F.normalize(encoded.states[0, end] @ clip.model.text_projection, dim=0) * 4  # sqrt(16)
    torch.testing.assert_close(encoded.embed[0], pooled)


def test_equal_prompts_are_encoded_once_and_the_empty_one_beside_them(model, monkeypatch):
    seen, encode = [], model.clip.encode_text
    monkeypatch.setattr(model.clip, "encode_text", lambda captions: seen.append(captions) or encode(captions))
    _, text, null, *_ = model.texts(["a dog", "a cat", "a dog"])
    assert seen == [["a dog", "a cat", ""]]
    direct = encode(["a dog", "a cat", "a dog"]).batch()
    for key in direct:
        torch.testing.assert_close(text[key], direct[key])
        torch.testing.assert_close(null[key], encode([""]).batch()[key])


# ---- settings --------------------------------------------------------------------------------------------------------

def test_defaults_are_the_models_then_ours(model):
    assert model.settings().num_inference_steps == 3
    assert model.settings().guidance_scale == Settings().guidance_scale
    assert model.settings(num_inference_steps=None, guidance_scale=None) == model.settings()


@pytest.mark.parametrize("settings, says", [
    ({"num_inference_steps": 0}, "num_inference_steps = 0"),
    ({"num_inference_steps": 1001}, "1 to 1000"),
    ({"prior_num_inference_steps": -3}, "prior_num_inference_steps = -3"),
    ({"prior_num_inference_steps": 1001}, "1 to 1000"),
    ({"guidance_scale": math.nan}, "guidance_scale"),
    ({"prior_guidance_scale": math.inf}, "prior_guidance_scale"),
    ({"guidance_scale": "much"}, "guidance_scale"),
    ({"sampler": "ddmp"}, "did you mean 'ddpm'"), ({"prior_sampler": "dim"}, "did you mean 'ddim'"),
    ({"guidance_scales": 2.0}, "guidance_scale"), ({"eta": 1.5}, "eta = 1.5"), ({"eta": 0.5, "sampler": "ddpm"}, "only the sampler ddim"),
    ({"negative_prompt": "a cat", "guidance_scale": 1.0, "prior_guidance_scale": 1.0}, "without guidance"),
    ({"num_images": 0}, "0 images"),
    ({"batch_size": 0}, "batches of 0"),
    ({"seed": -1}, "seed -1"),
    ({"seed": MAX_SEED, "num_images": 2}, f"choose 0 to {MAX_SEED - 1}"),
    ({"seed": 10**30}, "choose 0 to"),
])  # fmt: skip
def test_settings_out_of_range(model, settings, says):
    with pytest.raises(UserError) as error:
        model("a dog", **settings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_the_last_seed_draws(model):
    assert len(model("a dog", seed=MAX_SEED)) == 1


def test_empty_prompts(model):
    for prompts in ("", [], ["a dog", " "]):
        with pytest.raises(UserError, match="prompt"):
            model(prompts)


# ---- loading ---------------------------------------------------------------------------------------------------------

def test_loaded_parts_are_ready_to_draw(model):
    for part in (model.prior, model.decoder):
        assert not part.training and part.dtype == torch.float32
    weights = [p for p in model.decoder.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert "bridge" in model.vocabulary


def break_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def narrow_decoder(folder):
    """A decoder of a CLIP with other embeddings."""
    config = json.loads((folder / "decoder" / "config.json").read_text())
    (folder / "decoder" / "config.json").write_text(json.dumps({**config, "embed_dim": 12, "image_tokens": 0}))
    decoder = unclip.Decoder(**{**config, "embed_dim": 12, "image_tokens": 0})
    decoder.save(folder / "decoder")


def pickle_prior(folder):
    weights = folder / "prior" / "model.safetensors"
    torch.save(load_file(weights), folder / "prior" / "pytorch_model.bin")
    weights.unlink()


def add_weight(folder):
    weights = folder / "prior" / "model.safetensors"
    save_file({**load_file(weights), "surplus": torch.zeros(1)}, weights)


@pytest.mark.parametrize("damage, says", [
    (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    (lambda f: (f / "model_index.json").write_text("{"), "model_index.json"),
    (lambda f: break_index(f, defaults={"num_inference_step": 3}), "did you mean 'num_inference_steps'"),
    (lambda f: break_index(f, defaults={"num_inference_steps": "many"}), "num_inference_steps"),
    (lambda f: break_index(f, defaults=[1]), "model_index.json"),
    (lambda f: (f / "decoder" / "model.safetensors").unlink(), "model.safetensors"),
    (lambda f: (f / "prior" / "config.json").unlink(), "config.json"),
    (lambda f: cut(f / "prior" / "model.safetensors"), "damaged"),
    (lambda f: cut(f / "clip" / "open_clip_model.safetensors"), "clip"),
    (lambda f: (f / "clip" / "open_clip_model.safetensors").unlink(), "open_clip_model.safetensors"),
    (narrow_decoder, "different CLIPs"),
    (pickle_prior, "model.safetensors"),
    (add_weight, "surplus"),
])  # fmt: skip
def test_a_damaged_model_ends_in_one_line(model_copy, damage, says):
    damage(model_copy)
    with pytest.raises(UserError) as error:
        UnCLIP.from_pretrained(model_copy)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_clip_of_another_width_is_told_at_once(model_copy):
    config = {**CLIP_CONFIG, "text_cfg": {**CLIP_CONFIG["text_cfg"], "context_length": 9}}
    save_clip(build_clip(config).state_dict(), config, ((0.5,) * 3, (0.5,) * 3), model_copy / "clip")
    with pytest.raises(UserError, match="the prior of .* reads another CLIP than its .* names"):
        UnCLIP.from_pretrained(model_copy)


def test_no_such_model(tmp_path):
    for name in (tmp_path / "nowhere", "no such model", "nobody/no-such-model"):
        with pytest.raises(UserError) as error:
            UnCLIP.from_pretrained(name)
        assert str(name) in str(error.value) and "\n" not in str(error.value)
