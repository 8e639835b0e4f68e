"""What can be done to pictures, on a tiny model: what each method hands to CLIP, prior and decoder, and what comes back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unclip.errors import UserError
from unclip.latents import slerp, text_diff
from unclip.manipulations import checked_mask, mask_at, pixels
from unclip.pipeline import UnCLIP


def picture(seed=0, size=(20, 20)):
    """A smooth picture, unlike that of another seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def half_mask(size, box):
    """White in a box."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def array(image):
    return np.asarray(image, dtype=float)


def distance(a, b):
    return np.abs(array(a) - array(b)).mean()


@pytest.fixture
def asked(model, monkeypatch):
    """What the decoder is asked for: a list of (embeddings, keywords of `sample`)."""
    calls, sample = [], model.decoder.sample

    def recorded(embeds, *texts, **options):
        calls.append((embeds, options))
        return sample(embeds, *texts, **options)

    monkeypatch.setattr(model.decoder, "sample", recorded)
    return calls


# ---- variations ------------------------------------------------------------------------------------------------------

def test_variations_are_drawn_from_the_pictures_embedding(model, asked):
    images = model.vary(picture(), num_images=3, seed=4)
    assert [image.size for image in images] == [(8, 8)] * 3
    (embeds, options), = asked
    torch.testing.assert_close(embeds, model.clip.encode_image([picture()]).expand(3, -1))
    assert options["start"] is None
    alone = model.vary(picture(), num_images=1, seed=5)[0]
    assert distance(images[1], alone) < 1 < distance(images[0], images[1])


def test_fidelity_runs_from_the_same_idea_to_the_same_picture(model):
    """Pictures that the model drew itself: what it can draw it can find again."""
    (image,) = model.vary(picture(), num_images=1, seed=1)
    away = [np.mean([distance(image, other) for other in model.vary(image, num_images=6, fidelity=f, num_inference_steps=100)])
            for f in (0.0, 0.5, 0.9, 1.0)]  # fmt: skip
    assert away[0] > away[1] > away[2] > away[3] and away[3] < 0.2 * away[0]


def test_fidelity_is_less_eta_and_a_shorter_inversion(model, asked):
    model.vary(picture(), fidelity=0.5, num_images=2, num_inference_steps=40)
    (_, options), = asked
    assert options["eta"] == 0.5 and options["start"].strength == 0.75 and options["sampler"] == "ddim"


def test_the_whole_of_fidelity_is_deterministic(model):
    one, other = model.vary(picture(), fidelity=1.0, num_images=2)
    assert np.array_equal(array(one), array(other))


# ---- blends ----------------------------------------------------------------------------------------------------------

def test_a_blend_of_prompts_begins_and_ends_with_their_pictures(model):
    """Both z and x_T are theirs at the ends."""
    frames = model.blend(["a dog", "the red car"], num_frames=5, seed=3, num_inference_steps=6)
    for frame, prompt in ((frames[0], "a dog"), (frames[-1], "the red car")):
        (alone,) = model(prompt, seed=3, num_inference_steps=6)
        assert np.abs(array(frame) - array(alone)).max() <= 1
    assert len(frames) == 5 and distance(frames[0], frames[-1]) > 1


def test_embeddings_and_noise_are_interpolated_on_the_sphere(model, asked):
    model.blend([picture(0), picture(1), "a dog"], num_frames=5, seed=2)
    (embeds, options), = asked
    settings = model.deterministic({}, "test")
    places = [model.place(item, 2, settings) for item in (picture(0), picture(1), "a dog")]
    for row, (first, second, share) in enumerate([(0, 1, 0.0), (0, 1, 0.5), (1, 2, 0.0), (1, 2, 0.5), (1, 2, 1.0)]):
        z, x_T = (slerp(a, b, share) for a, b in zip(places[first], places[second]))
        torch.testing.assert_close(embeds[row : row + 1], z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(options["start"].x_t[row : row + 1], x_T, rtol=1e-4, atol=1e-4)


def test_frames_do_not_depend_on_the_batch(model):
    together = model.blend(["a dog", picture()], num_frames=5)
    for one, other in zip(together, model.blend(["a dog", picture()], num_frames=5, batch_size=2)):
        assert np.abs(array(one) - array(other)).max() <= 1


def test_a_mixture_leans_to_the_larger_weight(model, asked):
    model.mix([picture(0), picture(1)], [3.0, 1.0], num_images=2)
    (embeds, options), = asked
    a, b = model.look([picture(0), picture(1)])
    assert options["start"] is None and torch.equal(embeds[0], embeds[1])
    assert F.cosine_similarity(embeds[0], a, dim=0) > F.cosine_similarity(embeds[0], b, dim=0)


# ---- text edits ------------------------------------------------------------------------------------------------------

def test_a_text_edit_turns_the_embedding_and_keeps_the_noise(model, asked):
    model.edit(picture(), "a dog", base="a cat", strength=0.5, num_frames=3)
    (embeds, options), = asked
    z = model.look([picture()])
    to, away = model.clip.encode_text(["a dog", "a cat"]).embed[:, None]
    direction = text_diff(z, to, away)
    torch.testing.assert_close(embeds, torch.cat([slerp(z, direction, s) for s in (0.0, 0.25, 0.5)]), rtol=1e-4, atol=1e-4)
    settings = model.deterministic({}, "test")
    torch.testing.assert_close(options["start"].x_t, model.place(picture(), 0, settings)[1])  # one for all frames


# ---- image-to-image and inpainting -----------------------------------------------------------------------------------

@pytest.mark.parametrize("stage, side", [("base", 8), ("upsampler-1", 16), ("upsampler-2", 64)])
def test_inpainting_keeps_what_is_black_in_every_stage(cascade, stage, side):
    image, mask = picture(size=(128, 128)), Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    (drawn,) = cascade.inpaint(image, mask, "a dog", num_images=1, stop_after=stage, upsampler_num_inference_steps=2)
    kept = array(image.resize((side, side), Image.Resampling.BOX))
    assert drawn.size == (side, side)
    assert np.abs(array(drawn) - kept)[:, side // 2 :].max() <= 1
    assert np.abs(array(drawn) - kept)[:, : side // 2].mean() > 5


def test_redrawing_weakly_keeps_the_picture_in_every_stage(cascade):
    image = picture(size=(128, 128))
    weak, strong = (
        np.mean([distance(image.resize((64, 64), Image.Resampling.BOX), drawn) for drawn in
                 cascade.redraw(image, "a dog", strength=s, num_inference_steps=20, upsampler_num_inference_steps=20)])
        for s in (0.05, 1.0)
    )  # fmt: skip
    assert weak < 0.3 * strong


def test_a_prompt_or_what_the_picture_shows(model, asked):
    model.redraw(picture(), num_images=1)
    model.redraw(picture(), "a dog", num_images=1, seed=2)
    settings = model.settings()
    torch.testing.assert_close(asked[0][0], model.look([picture()]))
    torch.testing.assert_close(asked[1][0], model.image_embeddings(model.texts(["a dog"]), [2], settings))


def test_a_mask_is_cropped_and_shrunk_like_its_picture():
    mask = Image.new("L", (20, 10), 0)
    mask.paste(255, (5, 0, 10, 10))  # the left half of the centre square
    assert torch.equal(mask_at(mask, 2), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))
    assert mask_at(mask, 1).item() == pytest.approx(0.5, abs=0.01)


def test_strokes_on_a_transparent_ground_are_a_mask():
    strokes = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    strokes.paste((255, 255, 255, 255), (0, 0, 10, 20))
    assert torch.equal(mask_at(checked_mask(strokes, picture(), 2), 2), torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]))


def test_the_noise_of_a_jpeg_marks_nothing():
    speckled = Image.effect_noise((20, 20), 20).point(lambda v: v // 8)
    with pytest.raises(UserError, match="black all over"):
        checked_mask(speckled, picture(), 8)


# ---- the latent space ------------------------------------------------------------------------------------------------

def test_all_components_are_the_pictures_embedding(model, asked):
    directions = torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64)
    model.components(picture(), directions, [4, 16])
    z = model.look([picture()])
    torch.testing.assert_close(asked[0][0][1:], z)
    torch.testing.assert_close(asked[0][0][0], torch.where(torch.arange(16) < 4, z[0], torch.zeros(16)))


def test_spread_shows_prior_and_decoder_apart(model, asked):
    embeds, by_prior, by_decoder = model.spread("a dog", num_images=3, seed=7)
    (given, _), = asked
    torch.testing.assert_close(given, torch.cat([embeds, embeds[:1].expand(3, -1)]))
    settings = model.settings()
    torch.testing.assert_close(embeds, model.image_embeddings(model.texts(["a dog"] * 3), [7, 8, 9], settings), rtol=1e-4, atol=1e-4)
    assert np.abs(array(by_prior[0]) - array(by_decoder[0])).max() <= 1
    assert distance(by_prior[0], by_prior[1]) > 0.5 and distance(by_decoder[0], by_decoder[1]) > 0.5


# ---- prompts with weights, negative prompts, seeds, steps ------------------------------------------------------------

def embeddings(model, prompt, seeds=(1, 2), **settings):
    """Through the whole pipeline: what the decoder is given."""
    seen = []
    model(prompt, num_images=len(seeds), seed=list(seeds), callback=seen.append, **settings)
    return [s for s in seen if s.stage == "prior"][-1].prediction.x_0


def test_weight_one_is_the_plain_prompt_and_others_are_not(model):
    plain, one, more = (embeddings(model, p, prior_num_samples=1) for p in ("a dog", "a dog:1", "a dog:3"))
    torch.testing.assert_close(one, plain, rtol=1e-4, atol=1e-4)
    assert (more - plain).abs().max() > 1e-2


def test_parts_of_prompts_of_different_length_share_a_batch(model):
    """Each picture is what its prompt draws alone."""
    prompts = ["a dog", "a dog:2 AND the red car:0.5", "a cat AND a bridge:-0.5"]
    together = model(prompts, seed=3)
    for image, prompt in zip(together, prompts):
        assert np.abs(array(image) - array(model(prompt, seed=3)[0])).max() <= 1
    assert distance(together[0], together[1]) > 0.5


def test_a_negative_prompt_is_led_away_from_in_prior_and_decoder(model, asked):
    options = {"num_images": 2, "seed": 1, "prior_guidance_scale": 3.0, "guidance_scale": 3.0}
    plain, negative = model("a dog", **options), model("a dog", **options, negative_prompt="a cat")
    assert distance(plain[0], negative[0]) > 0.5
    settings = model.settings(prior_guidance_scale=3.0)
    away = model.image_embeddings(model.texts(["a cat"] * 2), [1, 2], settings)
    assert asked[0][1]["null_embed"] is None
    torch.testing.assert_close(asked[1][1]["null_embed"], away, rtol=1e-4, atol=1e-4)
    text = model.texts(["a dog"], "a cat")
    torch.testing.assert_close(text.null["text_embed"], model.clip.encode_text(["a cat"]).embed)


def test_every_picture_may_have_a_seed_of_its_own(model):
    several = model("a dog", num_images=3, seed=[9, 2, 9])
    for image, seed in zip(several, (9, 2, 9)):
        assert np.abs(array(image) - array(model("a dog", seed=seed)[0])).max() <= 1
    with pytest.raises(UserError, match="2 seeds for 3 images"):
        model("a dog", num_images=3, seed=[1, 2])


def test_a_callback_sees_every_step_of_every_stage(cascade):
    seen = []
    cascade("a dog", num_images=3, batch_size=2, upsampler_num_inference_steps=2, callback=seen.append)
    first = [s for s in seen if s.rows == range(0, 2)]
    assert {s.rows for s in seen} == {range(0, 2), range(2, 3)}
    stages = [("prior", 2), ("base", 3), ("upsampler-1", 2), ("upsampler-2", 2)]
    assert [(s.stage, s.index, s.count) for s in first] == [(name, i, n) for name, n in stages for i in range(n)]
    side = {"base": 8, "upsampler-1": 16, "upsampler-2": 64}
    for s in first:
        if s.stage != "prior":
            assert s.x_t.shape == s.prediction.x_0.shape == (2, 3, side[s.stage], side[s.stage])
    assert seen[-1].share == 1


@pytest.mark.parametrize("method, inputs", [
    ("vary", [picture()]), ("blend", [["a dog", picture()]]), ("edit", [picture(), "a dog"]), ("redraw", [picture(), "a dog"]),
])  # fmt: skip
def test_what_a_callback_raises_ends_the_drawing_and_the_model_goes_on(model, method, inputs):
    before = model("a dog")[0]

    def stop(step):
        if step.share > 0.3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        getattr(model, method)(*inputs, callback=stop)
    assert np.array_equal(array(before), array(model("a dog")[0]))


# ---- on other devices, in other dtypes, with decoders that read captions ---------------------------------------------

DRAWINGS = {
    "vary": lambda model: model.vary(picture(), fidelity=0.5, num_images=2, batch_size=1),
    "blend": lambda model: model.blend([picture(), "a dog"], num_frames=3),
    "mix": lambda model: model.mix([picture(), "a dog"], [1.0, 2.0], num_images=1),
    "edit": lambda model: model.edit(picture(), "a dog", num_frames=2),
    "redraw": lambda model: model.redraw(picture(), "a dog:2", num_images=1, negative_prompt="a cat"),
    "inpaint": lambda model: model.inpaint(picture(), half_mask((20, 20), (0, 0, 10, 20)), "a dog", num_images=1),
    "spread": lambda model: model.spread("a dog", num_images=2)[1],
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_offloading_changes_nothing(model, model_files, name):
    """The parts move to "cpu" here, so that the path is walked."""
    offloaded = UnCLIP.from_pretrained(model_files, offload=True)
    for one, other in zip(DRAWINGS[name](model), DRAWINGS[name](offloaded)):
        assert np.abs(array(one) - array(other)).max() <= 1


@pytest.mark.parametrize("name", DRAWINGS)
def test_half_precision_draws_about_the_same(model, model_files, name):
    half = UnCLIP.from_pretrained(model_files, dtype=torch.bfloat16)
    for one, other in zip(DRAWINGS[name](model), DRAWINGS[name](half)):
        assert distance(one, other) < 0.15 * array(one).mean() + 5


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_decoder_that_reads_captions_draws_too(model, make_decoder, name):
    reading = UnCLIP(model.clip, model.prior, make_decoder(text_dim=16), model.defaults)
    assert all(image.size == (8, 8) for image in DRAWINGS[name](reading))


def test_the_spread_of_a_prompt_is_shown_to_a_decoder_that_reads_it(model, make_decoder):
    reading = UnCLIP(model.clip, model.prior, make_decoder(text_dim=16), model.defaults)
    (alone,) = reading("a dog", seed=3)
    assert np.abs(array(reading.spread("a dog", seed=3, num_images=2)[1][0]) - array(alone)).max() <= 1


def test_the_place_of_a_picture_is_where_the_decoder_finds_it(model):
    settings = model.deterministic({}, "test")
    z, x_T = model.place(picture(), 5, settings)
    torch.testing.assert_close(z, model.clip.encode_image([picture()]).float())
    found = model.decoder.invert(pixels(picture(), 8), z, num_inference_steps=settings.num_inference_steps,
                                 guidance_scale=settings.guidance_scale)  # fmt: skip
    torch.testing.assert_close(x_T, found)


def test_numbers_of_other_libraries_are_seeds(model):
    assert np.array_equal(array(model("a dog", seed=np.int64(3))[0]), array(model("a dog", seed=3)[0]))


# ---- bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, inputs, options, says", [
    ("vary", [picture()], {"fidelity": 1.1}, "fidelity 1.1: choose 0 to 1"),
    ("vary", [picture()], {"fidelity": 0.5, "sampler": "dpm++"}, "asks for the sampler ddim, not dpm++"),
    ("vary", [picture()], {"num_images": 0}, "0 images"),
    ("blend", [["a dog"]], {}, "a blend of 1 in 7 frames"),
    ("blend", [["a dog", "a cat"]], {"num_frames": 1}, "in 1 frames"),
    ("blend", [["a dog", " "]], {}, "an empty prompt"),
    ("blend", [["a dog", "a cat"]], {"sampler": "ddpm"}, "asks for the sampler ddim, not ddpm"),
    ("mix", [["a dog", "a cat"], [1.0]], {}, "1 weights for 2"),
    ("mix", [[picture(), picture()], [1.0, -1.0]], {}, "cancel"),
    ("edit", [picture(), "a dog"], {"base": "a dog"}, "mean the same"),
    ("edit", [picture(), ""], {}, "an empty prompt"),
    ("edit", [picture(), "a dog:2"], {}, "has weights"),
    ("blend", [["a dog", "a cat"]], {"eta": 0.5}, "drawn without eta"),
    ("blend", [["a dog", "a cat"]], {"seed": [1, 2]}, "all frames share one"),
    ("neighbours", [picture(), torch.ones(3, 16)], {"count": 0}, "0 neighbours"),
    ("inpaint", [picture(size=(40, 20)), half_mask((40, 20), (0, 0, 9, 20))], {}, "black all over, in the centre square"),
    ("inpaint", [picture(), Image.new("RGBA", (20, 20), (255, 255, 255, 0))], {}, "black all over"),
    ("vary", [picture()], {"batch_size": 0}, "batches of 0"), ("spread", ["a dog"], {"batch_size": 0}, "batches of 0"),
    ("edit", [picture(), "a dog"], {"strength": -0.1}, "strength -0.1"),
    ("edit", [picture(), "a dog"], {"num_frames": 1}, "1 frames"),
    ("redraw", [picture()], {"strength": 0.0}, "strength 0.0"),
    ("inpaint", [picture(), Image.new("L", (9, 9), 255)], {}, "the mask is 9x9, the picture 20x20"),
    ("inpaint", [picture(), Image.new("L", (20, 20), 0)], {}, "black all over"),
    ("inpaint", [picture(), Image.new("L", (20, 20), 255)], {"rounds": 0}, "0 rounds"),
    ("components", [picture(), (torch.zeros(16), torch.eye(16)), [17]], {}, "choose 1 to 16"),
    ("components", [picture(), (torch.zeros(16), torch.eye(16)), []], {}, "no components"),
    ("vary", [picture()], {"eta": 2.0}, "eta = 2.0"),
    ("vary", [picture()], {"eta": 0.5, "sampler": "dpm++"}, "only the sampler ddim"),
    ("vary", [picture()], {"negative_prompt": "a cat", "guidance_scale": 1.0, "prior_guidance_scale": 2.0}, "without guidance"),
])  # fmt: skip
def test_bad_input_is_one_line(model, method, inputs, options, says):
    with pytest.raises(UserError) as error:
        getattr(model, method)(*inputs, **options)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "YCbCr", "F"])
def test_pictures_of_any_mode(mode):
    grey = Image.fromarray(np.linspace(0, 255, 400).reshape(20, 20).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray((np.asarray(grey).astype(np.uint16) * 257))
    else:
        image = grey.convert(mode)
    x = pixels(image, 10)
    assert x.shape == (1, 3, 10, 10) and x.abs().max() <= 1
    if mode != "1":
        torch.testing.assert_close(x, pixels(grey, 10), rtol=0, atol=0.06)


def test_a_turned_picture_is_set_upright():
    image, exif = picture(size=(20, 20)), Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif().update(exif)
    torch.testing.assert_close(pixels(turned, 10), pixels(image, 10), rtol=0, atol=0.02)
