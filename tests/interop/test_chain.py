"""From a prompt to pixels against diffusers' UnCLIPPipeline and transformers' CLIP, with the same weights and noise."""

import functools
import random

import pytest
import torch
from networks.randomness import randomise

from unclip.clip import FrozenCLIP
from unclip.diffusion import Denoiser, Schedule, SeededNoise, ddpm, thresholded
from unclip.interop.importing import import_karlo
from unclip.openclip.building import build_clip, save_clip
from unclip.openclip.library import import_open_clip
from unclip.pipeline import UnCLIP

from .conftest import DIM, LENGTH

# no '!', which pads, and which transformers then reads as padding
PROMPTS = ["a portrait of an old monk, highly detailed", "Zwei Ochsen  (2 of 3); it's", ""]
SMALL = "diffusers' Karlo, small"
LAYERS, HEADS = 2, 2


@pytest.fixture(scope="module")
def their_tokenizer():
    from transformers import CLIPTokenizer

    ours = import_open_clip().SimpleTokenizer()
    merges = [" ".join(pair) for pair in sorted(ours.bpe_ranks, key=ours.bpe_ranks.get)]
    vocabulary = {token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): k
                  for token, k in ours.encoder.items()}  # fmt: skip
    return CLIPTokenizer(vocabulary, [tuple(m.split()) for m in merges], pad_token="!", model_max_length=LENGTH)


@pytest.fixture(scope="module")
def their_clip():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=DIM, intermediate_size=4 * DIM, projection_dim=DIM, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=LENGTH, hidden_act="quick_gelu", bos_token_id=49406,
        eos_token_id=49407, pad_token_id=0,
    )  # fmt: skip
    return randomise(CLIPTextModelWithProjection(config))


@pytest.fixture(scope="module")
def clip_folder(their_clip, tmp_path_factory):
    """The same text tower as OpenCLIP has it; OpenAI's towers have QuickGELU."""
    config = {
        "embed_dim": DIM, "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": DIM, "heads": HEADS, "layers": LAYERS},
    }  # fmt: skip
    theirs = {k.removeprefix("text_model."): v for k, v in their_clip.state_dict().items()}
    state = build_clip(config).state_dict()
    state |= {
        "token_embedding.weight": theirs["embeddings.token_embedding.weight"],
        "positional_embedding": theirs["embeddings.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T,
        "ln_final.weight": theirs["final_layer_norm.weight"],
        "ln_final.bias": theirs["final_layer_norm.bias"],
    }
    for k in range(LAYERS):
        block, their_block = f"transformer.resblocks.{k}.", f"encoder.layers.{k}."
        for leaf in ("weight", "bias"):
            qkv = [theirs[f"{their_block}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            state[f"{block}attn.in_proj_{leaf}"] = torch.cat(qkv)
            for mine, its in [("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                              ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")]:  # fmt: skip
                state[f"{block}{mine}.{leaf}"] = theirs[f"{their_block}{its}.{leaf}"]
    folder = tmp_path_factory.mktemp("clip") / "clip"
    save_clip(state, config, ((0.5,) * 3, (0.5,) * 3), folder)
    return folder


@pytest.fixture
def model(diffusers_folder, clip_folder, tmp_path):
    import_karlo(diffusers_folder, tmp_path / "model", clip=clip_folder)
    return UnCLIP.from_pretrained(tmp_path / "model")


@pytest.fixture
def their_noise(monkeypatch):
    """Diffusers draws from the SeededNoise that `use` was last given for pictures of that shape."""
    of_shape = {}

    def draw(shape, **_):
        return of_shape[tuple(shape)](tuple(shape))

    monkeypatch.setattr("diffusers.schedulers.scheduling_unclip.randn_tensor", draw)
    monkeypatch.setattr("diffusers.pipelines.deprecated.unclip.pipeline_unclip.randn_tensor", draw)
    return of_shape


def test_tokens_padding_and_mask_are_those_of_transformers(clip_folder, their_tokenizer):
    clip = FrozenCLIP(clip_folder)
    theirs = their_tokenizer(
        [*PROMPTS, "a very long caption " * 40], padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    captions = [*PROMPTS, "a very long caption " * 40]
    assert torch.equal(clip.tokenize(captions), theirs.input_ids)
    assert torch.equal(clip.encode_text(captions).mask, theirs.attention_mask.bool())


@torch.no_grad()
def test_the_text_tower(clip_folder, their_clip, their_tokenizer, parity):
    ours = FrozenCLIP(clip_folder).encode_text(PROMPTS)
    tokens = their_tokenizer(PROMPTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    theirs = their_clip(tokens.input_ids)
    parity("CLIP, text embedding", "transformers' CLIP, small", ours.embed, theirs.text_embeds, 1e-5)
    parity("CLIP, text states", "transformers' CLIP, small", ours.states, theirs.last_hidden_state, 1e-5)


@torch.no_grad()
def test_one_step_of_every_sampler_on_the_same_tables(their_schedulers, their_noise, parity):
    """Networks that are given numbers: what differs is the step alone."""
    schedule = Schedule.cosine()
    cases = [("prior", "prior_scheduler", "x_0", (2, DIM), 5.0), ("decoder", "decoder_scheduler", "eps", (2, 3, 8, 8), 1.0),
             ("upsampler", "super_res_scheduler", "eps", (2, 3, 8, 8), 1.0)]  # fmt: skip
    for part, name, prediction, shape, bound in cases:
        x_t, learned = torch.randn(shape), part == "decoder"
        output = torch.randn(shape[0], shape[1] * (2 if learned else 1), *shape[2:])
        their_noise[shape] = SeededNoise([1, 2])
        theirs = their_schedulers[name].step(output, 700, x_t, prev_timestep=660).prev_sample
        denoiser = thresholded(Denoiser(lambda x, t: output, schedule, prediction, learned), schedule, static=bound)
        seen = []
        options = {"variance": "learned_range"} if learned else {}
        ddpm(denoiser, x_t, torch.tensor([700, 660]), schedule, noise=SeededNoise([1, 2]),
             callback=lambda i, n, x, prediction: seen.append(x), **options)  # fmt: skip
        parity(f"{part}, one step", "UnCLIPScheduler", seen[1], theirs, 1e-6)


@torch.no_grad()
def test_whole_trajectories_and_the_whole_chain(
    model, diffusers_parts, their_schedulers, their_clip, their_tokenizer, their_noise, parity
):
    from diffusers.pipelines.deprecated.unclip import UnCLIPPipeline

    prompts, seeds, settings = PROMPTS[:2], [3, 4], model.settings()
    theirs = UnCLIPPipeline(text_encoder=their_clip, tokenizer=their_tokenizer, **diffusers_parts, **their_schedulers)
    theirs.set_progress_bar_config(disable=True)
    stages = {
        (2, DIM): [2 * s for s in seeds],
        (2, 3, 16, 16): [2 * s + 1 for s in seeds],
        (2, 3, 64, 64): [random.Random(f"upsampler 0 of {s}").getrandbits(32) for s in seeds],
    }
    # what each of their stages gives, caught as the next one takes it
    caught = {}
    post_process = theirs.prior.post_process_latents
    theirs.prior.post_process_latents = lambda x: caught.setdefault("embeds", post_process(x))
    enlarge = torch.nn.functional.interpolate

    @functools.wraps(enlarge)  # they look at its signature for `antialias`
    def catching(image, *args, **options):
        if options.get("mode") == "bicubic":
            caught["base"] = image
        return enlarge(image, *args, **options)

    their_noise |= {shape: SeededNoise(each) for shape, each in stages.items()}
    try:
        torch.nn.functional.interpolate = catching
        images = theirs(prompts, output_type="np").images
    finally:
        torch.nn.functional.interpolate = enlarge
        del theirs.prior.post_process_latents
    images = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1

    texts = model.texts(prompts)
    embeds = model.image_embeddings(texts, seeds, settings)
    parity("prior, 25 steps", SMALL, embeds, caught["embeds"], 1e-3)
    base = model.decode(caught["embeds"], texts, seeds, settings)
    parity("decoder, 25 steps, guidance 8", SMALL, base, caught["base"], 1e-3)
    noise = SeededNoise(stages[(2, 3, 64, 64)])
    large = model.enlarge(model.upsamplers[0], caught["base"], embeds, noise, settings)
    parity("upsampler, 7 steps", SMALL, large, images, 1e-3)
    whole = model.sample_each(list(zip(prompts, seeds)), settings)
    parity("prompt to picture", SMALL, whole, images, 1e-3)
