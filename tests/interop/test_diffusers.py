"""diffusers' folders against diffusers: what is read from them, and what is written for them."""

import json
import shutil

import pytest
import torch
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from networks.randomness import randomise
from safetensors.torch import save_file

from unclip.decoder import Decoder
from unclip.diffusion import SeededNoise
from unclip.errors import UserError
from unclip.hub import POCKET
from unclip.interop.exporting import export_diffusers
from unclip.interop.importing import import_karlo, import_prior
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

from .conftest import DIM, LENGTH

SMALL = "diffusers' Karlo, small"
EVEN = {"atol": 0, "rtol": 0}


@pytest.fixture
def model(diffusers_folder, tmp_path):
    import_karlo(diffusers_folder, tmp_path / "model", clip="ViT-L-14", pretrained="openai")
    return tmp_path / "model"


@pytest.fixture
def parts(model):
    kinds = {"prior": DiffusionPrior, "decoder": Decoder, "upsampler-1": Upsampler}
    return {name: kind.from_pretrained(model / name) for name, kind in kinds.items()}


def their_prior(prior, x_t, t, text):
    return prior(x_t, t, text["text_embed"], text["text_states"], text["text_mask"]).predicted_image_embedding


def their_decoder(decoder, text_proj, x_t, t, image_embed, text):
    context, emb = text_proj(
        image_embeddings=image_embed, prompt_embeds=text["text_embed"], text_encoder_hidden_states=text["text_states"],
        do_classifier_free_guidance=False,
    )  # fmt: skip
    mask = torch.nn.functional.pad(text["text_mask"], (4, 0), value=True)
    return decoder(x_t, t, context, class_labels=emb, attention_mask=mask).sample


@torch.no_grad()
def test_the_prior(diffusers_parts, parts, conditions, parity):
    prior, x_t, t, text = parts["prior"], torch.randn(2, DIM), conditions["t"], conditions["text"]
    assert prior.options["clamp"] == 5
    torch.testing.assert_close(prior.std[None], diffusers_parts["prior"].clip_std, **EVEN)
    theirs = their_prior(diffusers_parts["prior"], x_t, t, text)
    parity("prior", SMALL, prior.network(x_t, t, **prior.read(text)), theirs, 1e-5)


@torch.no_grad()
def test_the_decoder(diffusers_parts, parts, conditions, parity):
    decoder, x_t, t = parts["decoder"], torch.randn(2, 3, 16, 16), conditions["t"]
    assert decoder.image_size == 16 and decoder.denoiser.learned_variance
    image_embed, text = conditions["image_embed"], conditions["text"]
    theirs = their_decoder(diffusers_parts["decoder"], diffusers_parts["text_proj"], x_t, t, image_embed, text)
    parity("decoder", SMALL, decoder.network(x_t, t, **decoder.read(image_embed, **text)), theirs, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
def test_the_upsampler(diffusers_parts, parts, conditions, parity, last):
    upsampler, t = parts["upsampler-1"], conditions["t"]
    assert upsampler.image_size == 64 and upsampler.scale == 4
    x_t, enlarged = torch.randn(2, 2, 3, 32, 32)
    theirs = diffusers_parts["super_res_last" if last else "super_res_first"](torch.cat([x_t, enlarged], 1), t).sample
    name = f"upsampler, {'last step' if last else 'first steps'}"
    parity(name, SMALL, upsampler.network(x_t, t, enlarged, torch.zeros(2), last=last), theirs, 1e-5)


def test_read_and_written_again_every_tensor_is_the_same(model, diffusers_parts, tmp_path):
    export_diffusers(model, tmp_path / "again")
    for name, part in diffusers_parts.items():
        again = type(part).from_pretrained(tmp_path / "again" / name)
        told = [{k: v for k, v in each.config.items() if not k.startswith("_")} for each in (part, again)]
        assert json.dumps(told[0], sort_keys=True) == json.dumps(told[1], sort_keys=True)
        state = part.state_dict()
        assert state.keys() == again.state_dict().keys()
        for key, value in again.state_dict().items():
            torch.testing.assert_close(value, state[key], **EVEN)
    for name in ("prior", "decoder", "super_res"):
        UnCLIPScheduler.from_pretrained(tmp_path / "again" / f"{name}_scheduler")


@torch.no_grad()
def test_the_pocket_prior_written_for_diffusers(tmp_path, capsys, parity):
    export_diffusers("pocket", tmp_path / "pocket")
    assert "left out: the decoder has no form in diffusers" in capsys.readouterr().out
    ours = DiffusionPrior.from_pretrained(POCKET / "prior")
    theirs = PriorTransformer.from_pretrained(tmp_path / "pocket" / "prior").eval()
    length, mean = ours.transformer.text_length, ours.mean
    text = {"text_embed": torch.randn(2, 128), "text_states": torch.randn(2, length, 128),
            "text_mask": torch.arange(length) < torch.tensor([[length], [5]])}  # fmt: skip
    x_t, t = torch.randn(2, 128), torch.tensor([3, 900])
    expected = their_prior(theirs, x_t, t, text)
    parity("prior", "the pocket model's, exported", ours.network(x_t, t, **ours.read(text)), expected, 1e-5)
    torch.testing.assert_close(theirs.post_process_latents(x_t), x_t * ours.std + mean)


@torch.no_grad()
def test_a_decoder_and_an_upsampler_of_ours_written_for_diffusers(tmp_path, conditions, parity):
    unet = {"channels": 32, "multipliers": [1, 2], "num_res_blocks": 1, "attention_levels": [1], "middle_attention": True,
            "head_dim": 16}  # fmt: skip
    decoder = randomise(Decoder(unet=unet, image_size=16, embed_dim=DIM, text_dim=DIM, prediction="eps"))
    plain = {"channels": 32, "multipliers": [1, 2], "num_res_blocks": 1, "scale_shift": True}
    upsampler = randomise(Upsampler(unet=plain, image_size=32, scale=2, max_noise=0.0, prediction="x_0"), std=0.05)
    decoder.save(tmp_path / "model" / "decoder", dtype=None)
    upsampler.save(tmp_path / "model" / "upsampler-1", dtype=None)
    export_diffusers(tmp_path / "model", tmp_path / "out")
    unet, text_proj, first, last = (
        kind.from_pretrained(tmp_path / "out" / name).eval()
        for kind, name in [(UNet2DConditionModel, "decoder"), (UnCLIPTextProjModel, "text_proj"),
                           (UNet2DModel, "super_res_first"), (UNet2DModel, "super_res_last")]
    )  # fmt: skip
    x_t, t, image_embed, text = torch.randn(2, 3, 16, 16), conditions["t"], conditions["image_embed"], conditions["text"]
    theirs = their_decoder(unet, text_proj, x_t, t, image_embed, text)
    parity("decoder", "one of ours, exported", decoder.network(x_t, t, **decoder.read(image_embed, **text)), theirs, 1e-5)
    x_t, enlarged = torch.randn(2, 2, 3, 32, 32)
    for network in (first, last):
        theirs = network(torch.cat([x_t, enlarged], 1), t).sample
        parity("upsampler", "one of ours, exported", upsampler.network(x_t, t, enlarged, torch.zeros(2)), theirs, 1e-5)
    scheduler = UnCLIPScheduler.from_pretrained(tmp_path / "out" / "super_res_scheduler")
    assert scheduler.config.prediction_type == "sample" and scheduler.config.clip_sample_range == 1


@pytest.mark.parametrize("options, says", [
    ({"unet": {"patch": 2}}, r"folds 2x2 pixels"),
    ({"unet": {"norm": "layer"}}, r"norms are over channels"),
    ({"unet": {"num_res_blocks": [1, 2]}}, r"levels differ"),
    ({"unet": {"middle_attention": False}}, r"no attention in the middle"),
    ({"text_dim": None}, r"reads no captions"),
    ({"text_dim": 32, "unet": {"context_dim": 64}}, r"not as wide as the image embedding"),
    ({"image_tokens": 0}, r"no image tokens"),
    ({"step_counts": [4, 2, 1]}, r"it was distilled"),
    ({"prediction": "v"}, r"predicts v"),
    ({"schedule": "linear"}, r"schedule is not the cosine"),
    ({"unet": {"multipliers": [2, 4]}}, r"first level has a multiplier"),
])  # fmt: skip
def test_what_diffusers_has_not_is_refused_with_the_reason(tmp_path, options, says):
    unet = {"channels": 32, "multipliers": [1, 2], "num_res_blocks": 1, "attention_levels": [1], "middle_attention": True,
            "head_dim": 16, **options.pop("unet", {})}  # fmt: skip
    decoder = Decoder(**{"unet": unet, "image_size": 16, "embed_dim": DIM, "text_dim": DIM, "prediction": "eps", **options})
    decoder.save(tmp_path / "model" / "decoder")
    with pytest.raises(UserError, match=rf"nothing of .* can be exported: the decoder has no form in diffusers: .*{says}"):
        export_diffusers(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, says", [
    ({"max_noise": 0.3}, "told a noise level"), ({"embed_dim": DIM}, "told the image embedding"),
    ({"residual": 0.2}, "what is added to the enlarged picture"),
])  # fmt: skip
def test_what_diffusers_has_not_of_an_upsampler(tmp_path, options, says):
    unet = {"channels": 32, "multipliers": [1, 2], "num_res_blocks": 1}
    options = {"unet": unet, "image_size": 32, "scale": 2, "prediction": "eps", "max_noise": 0.0, **options}
    Upsampler(**options).save(tmp_path / "model" / "upsampler-1")
    with pytest.raises(UserError, match=f"the upsampler has no form in diffusers: .*{says}"):
        export_diffusers(tmp_path / "model", tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("name, heads, layers, dim", [("Kandinsky 2.2's", 2, 3, 80), ("Karlo's alone", 4, 2, DIM)])
def test_a_prior_alone(tmp_path, conditions, parity, name, heads, layers, dim):
    theirs = randomise(PriorTransformer(num_attention_heads=heads, attention_head_dim=32, num_layers=layers, embedding_dim=dim))
    theirs.save_pretrained(tmp_path / "source" / "prior")
    UnCLIPScheduler(prediction_type="sample", clip_sample_range=10).save_pretrained(tmp_path / "source" / "scheduler")
    import_prior(tmp_path / "source", tmp_path / "model", clip="ViT-bigG-14", pretrained="laion2b_s39b_b160k")
    prior = DiffusionPrior.from_pretrained(tmp_path / "model" / "prior")
    text = {"text_embed": torch.randn(2, dim), "text_states": torch.randn(2, LENGTH, dim),
            "text_mask": conditions["text"]["text_mask"]}  # fmt: skip
    x_t, t = torch.randn(2, dim), conditions["t"]
    parity("prior", f"{name}, small", prior.network(x_t, t, **prior.read(text)), their_prior(theirs, x_t, t, text), 1e-5)
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["defaults"]["prior_guidance_scale"] == 4


@torch.no_grad()
def test_eclipse_predicts_in_one_step_without_a_time(tmp_path, conditions, parity):
    """Its network is diffusers' without the time token, its own code here: what that gives is the embedding itself."""
    theirs = randomise(PriorTransformer(
        num_attention_heads=2, attention_head_dim=32, num_layers=2, embedding_dim=DIM, additional_embeddings=3
    ))  # fmt: skip
    theirs.save_pretrained(tmp_path / "source")
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("time_embedding")}
    save_file(state, tmp_path / "source" / "diffusion_pytorch_model.safetensors")
    import_prior(tmp_path / "source", tmp_path / "model", clip="ViT-bigG-14", pretrained="laion2b_s39b_b160k")
    prior = DiffusionPrior.from_pretrained(tmp_path / "model" / "prior")

    text, null = conditions["text"], {k: v[:1] for k, v in conditions["text"].items()}
    x_T = SeededNoise([4, 5])((2, DIM))
    single = [theirs.embedding_proj(text["text_embed"]), theirs.proj_in(x_T), theirs.prd_embedding[0].expand(2, -1)]
    x = torch.cat([theirs.encoder_hidden_states_proj(text["text_states"]), torch.stack(single, 1)], 1)
    x = x + theirs.positional_embedding
    seen = torch.nn.functional.pad(text["text_mask"], (0, 3), value=True)[:, None] & torch.ones(80, 80).tril().bool()
    mask = torch.where(seen, 0.0, -10000.0).repeat_interleave(2, dim=0)
    for block in theirs.transformer_blocks:
        x = block(x, attention_mask=mask)
    expected = theirs.proj_to_clip_embeddings(theirs.norm_out(x)[:, -1])

    defaults = json.loads((tmp_path / "model" / "model_index.json").read_text())["defaults"]
    settings = {k.removeprefix("prior_"): v for k, v in defaults.items()}
    assert settings["num_inference_steps"] == settings["num_samples"] == settings["guidance_scale"] == 1
    ours = prior.sample(text, null, noise=SeededNoise([4, 5]), **settings)
    parity("prior, whole", "ECLIPSE's, small", ours, expected, 1e-5)


def refused(folder, tmp_path, says):
    with pytest.raises(UserError, match=says) as caught:
        import_karlo(folder, tmp_path / "model", clip="ViT-L-14", pretrained="openai")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("model")) and not list(tmp_path.glob(".model*"))


def test_no_part_is_lacking_or_cut_off(diffusers_folder, tmp_path):
    for at in sorted(diffusers_folder.glob("*/*")):
        whole, part = at.read_bytes(), at.parent.name
        at.unlink()
        refused(diffusers_folder, tmp_path, "no Karlo" if (part, at.name) == ("prior", "config.json") else part)
        at.write_bytes(whole[: len(whole) // 2])
        refused(diffusers_folder, tmp_path, f"{part}/{at.name} is damaged")
        at.write_bytes(whole)


@pytest.mark.parametrize("part, changes, says", [
    ("prior", {"_class_name": "UNet2DModel"}, "_class_name = 'UNet2DModel': Input should be 'PriorTransformer'"),
    ("prior", {"norm_in_type": "layer"}, "norm_in_type = 'layer': Input should be None"),
    ("prior", {"num_layers": None}, "num_layers = None"),
    ("prior", {"num_attention_heads": 3}, "which makes no"),
    ("prior", {"time_embed_dim": 7}, "time_embed_dim = 7: only 128 can be read"),
    ("decoder", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
    ("decoder", {"down_block_types": ["DownBlock2D"] * 3}, "down_block_types = DownBlock2D.*no such U-Net"),
    ("decoder", {"up_block_types": ["ResnetUpsampleBlock2D"] * 3}, "do not mirror"),
    ("decoder", {"block_out_channels": [32, 48, 96]}, "multiples of the first"),
    ("decoder", {"block_out_channels": []}, "block_out_channels"),
    ("decoder", {"block_out_channels": [0, 2]}, "block_out_channels.0 = 0"),
    ("decoder", {"sample_size": [16, 16]}, "sample_size"),
    ("decoder", {"out_channels": 3}, "3 channels and a variance learned_range"),
    ("decoder", {"dropout": "much"}, "dropout = 'much'"),
    ("text_proj", {"clip_extra_context_tokens": 0}, "clip_extra_context_tokens = 0"),
    ("text_proj", {"clip_embeddings_dim": 32}, "which makes no"),
    ("super_res_last", {"layers_per_block": 2}, "networks of two shapes"),
    ("prior_scheduler", {"prediction_type": "flow"}, "prediction_type = 'flow'"),
    ("prior_scheduler", {"prediction_type": []}, "prediction_type"),
    ("prior_scheduler", {"clip_sample_range": -1}, "clip_sample_range = -1"),
    ("decoder_scheduler", {"clip_sample": False}, "only pixels within -1 to 1"),
    ("super_res_scheduler", {"clip_sample_range": 3.0}, "only pixels within -1 to 1"),
])  # fmt: skip
def test_a_config_of_another_network_is_refused_by_its_key(diffusers_folder, tmp_path, part, changes, says):
    (at,) = (diffusers_folder / part).glob("*config.json")
    at.write_text(json.dumps({**json.loads(at.read_text()), **changes}))
    refused(diffusers_folder, tmp_path, says)


@pytest.mark.parametrize("text", ["[]", "5", "null", "[" * 100_000])
def test_json_that_is_no_config(diffusers_folder, tmp_path, text):
    (diffusers_folder / "decoder" / "config.json").write_text(text)
    refused(diffusers_folder, tmp_path, "decoder/config.json")


@pytest.mark.parametrize("text", ["[]", "5", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": ["x"]}}', "[" * 100_000,
                                  '{"weight_map": {"a": "../../outside.safetensors"}}'])  # fmt: skip
def test_json_that_is_no_index(diffusers_folder, tmp_path, text):
    (diffusers_folder / "decoder" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "outside.safetensors")
    (diffusers_folder / "decoder" / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    refused(diffusers_folder, tmp_path, "is no index of weights|no file .*decoder/outside.safetensors")


def test_a_damaged_part_is_no_part_that_diffusers_lacks(model, tmp_path):
    weights = model / "decoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="decoder/model.safetensors is damaged"):
        export_diffusers(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_further_upsamplers_are_told_of(model, tmp_path, capsys):
    shutil.copytree(model / "upsampler-1", model / "upsampler-2")
    export_diffusers(model, tmp_path / "out")
    assert "left out: upsampler-2: diffusers' unCLIP has one upsampler" in capsys.readouterr().out


@pytest.mark.parametrize("clip, tag, says", [
    ("no-such-clip", "openai", "no CLIP 'no-such-clip'"),
    ("ViT-L-14", "opena", "did you mean 'openai'"),
    (None, "openai", "say with --clip of which architecture"),
])  # fmt: skip
def test_a_clip_that_is_not_there_is_told_before_anything_is_read(diffusers_folder, tmp_path, clip, tag, says):
    with pytest.raises(UserError, match=says):
        import_karlo(diffusers_folder, tmp_path / "model", clip=clip, pretrained=tag)
    assert not (tmp_path / "model").exists()


def test_what_is_no_prior_at_all(tmp_path):
    (tmp_path / "laion").mkdir()
    (tmp_path / "laion" / "best.pth").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="LAION's priors cannot be read"):
        import_prior(tmp_path / "laion", tmp_path / "model")
    shutil.rmtree(tmp_path / "laion")
    with pytest.raises(UserError, match="no such folder, and no hub id"):
        import_prior(tmp_path / "laion", tmp_path / "model")
    with pytest.raises(UserError, match="cannot be fetched from the Hugging Face hub"):
        import_karlo("kakaobrain/karlo-v1-alpha", tmp_path / "model")
