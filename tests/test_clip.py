"""FrozenCLIP against plain open_clip and transformers, over the families of models that OpenCLIP has."""

import copy
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from unclip.clip import FrozenCLIP
from unclip.data.images import decode, to_float, to_uint8
from unclip.errors import UserError
from unclip.openclip.building import build_clip, save_clip
from unclip.openclip.library import import_open_clip

open_clip = import_open_clip()
CAPTIONS = ["a photo of a dog", "an ox", "", "wow!!! a very small red bus & a tree"]
STATS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
COCA = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2, "layers": 1},
}
OWN = {
    "clip": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "clip, quick gelu, resnet": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": TEXT,
    },
    "clip, plain image tower": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "timm_model_name": "cs3darknet_s", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "clip, timm": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
    "custom text": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "proj_bias": True},
    },
    "coca": COCA,
}
WORDS = "a photo of dog an ox wow very small red bus tree ! &".split()


def new_clip(config, folder):
    """A CLIP folder with random weights that differ from OpenCLIP's first ones (norms and biases too)."""
    torch.manual_seed(0)
    state = build_clip(config).state_dict()
    for name, value in state.items():
        if value.is_floating_point() and "running" not in name:
            first = value.nan_to_num(0, 0, 0).clamp(-3, 3)  # CoCa leaves a projection as the memory was
            state[name] = first + 0.1 * torch.randn_like(first)
    save_clip(state, config, STATS, folder)
    return folder


def siglip_config(folder):
    """As SigLIP's: no start token, the end token is the pad token as well, and the last position is pooled."""
    word_tokenizer(folder, pad="</s>", template="$A </s>")
    text = {**TEXT, "vocab_size": 40, "hf_tokenizer_name": "anything", "no_causal_mask": True, "pool_type": "last"}
    text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "proj_bias": True}
    return {"embed_dim": 16, "custom_text": True, "init_logit_bias": -10, "vision_cfg": VISION, "text_cfg": text}


def bert_config(folder):
    """A Hugging Face text tower: BERT, mean pooling."""
    transformers = pytest.importorskip("transformers")
    word_tokenizer(folder, pad="[PAD]", template="[CLS] $A </s>")
    bert = transformers.BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, pad_token_id=3,
    )  # fmt: skip
    bert.save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    text |= {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": 12}
    return {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}


def word_tokenizer(folder, pad, template):
    """A Hugging Face tokenizer with a word a token, made without a download."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    special = ["[CLS]", "</s>", "[UNK]", "[PAD]"]
    vocabulary = {word: k for k, word in enumerate(special + WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[(s, vocabulary[s]) for s in special]
    )
    outer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, eos_token="</s>", unk_token="[UNK]", padding_side="right"
    )
    outer.save_pretrained(folder)


@pytest.fixture(scope="module", params=[*OWN, "siglip", "bert"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "model"
    if request.param in OWN:
        return new_clip(OWN[request.param], path)
    extra = path.with_name("tokenizer")
    config = {"siglip": siglip_config, "bert": bert_config}[request.param](extra)
    new_clip(config, path)
    for file in extra.iterdir():
        if file.name.startswith("tokenizer"):
            (path / file.name).write_bytes(file.read_bytes())
    return path


@pytest.fixture(scope="module")
def plain(folder):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.fixture(scope="module")
def clip(folder):
    return FrozenCLIP(folder)


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    return new_clip(OWN["clip"], tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Both towers are plain."""
    return new_clip(OWN["clip, plain image tower"], tmp_path_factory.mktemp("clip") / "model")


def test_the_weights_that_were_saved_are_those_that_are_used(clip, folder):
    state = clip.model.state_dict()
    saved = load_file(folder / "open_clip_model.safetensors")
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[k], saved[k]) for k in saved)


@torch.no_grad()
def test_embeddings_equal_those_of_plain_open_clip(clip, plain):
    model, preprocess, tokenizer = plain
    expected = model.encode_text(tokenizer(CAPTIONS), normalize=False)
    torch.testing.assert_close(clip.encode_text(CAPTIONS).embed, expected)
    images = [Image.effect_noise((32, 32), 80).convert("RGB") for _ in range(3)]
    expected = model.encode_image(torch.stack([preprocess(i) for i in images]), normalize=False)
    torch.testing.assert_close(clip.encode_image(images), expected, rtol=1e-4, atol=1e-5)
    floats = to_float(torch.stack([to_uint8(image) for image in images]))
    torch.testing.assert_close(clip.encode_image(floats), expected, rtol=1e-4, atol=1e-5)


def test_plain_towers_are_read_without_the_rest(folder, clip):
    """OpenCLIP's settings of a text tower that are no more than sizes, and of the image tower that we have."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    plain = set(config) == {"embed_dim", "vision_cfg", "text_cfg"} and set(config["text_cfg"]) == set(TEXT)
    sees = plain and config["vision_cfg"].get("timm_model_name") == "cs3darknet_s"
    fresh = FrozenCLIP(folder)
    before = fresh.encode_text(CAPTIONS), fresh.fingerprint()
    assert set(fresh._held) == ({"text"} if plain else {"model"})
    assert fresh.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    assert fresh.image_size == 32 and fresh.pixel_stats == STATS and set(fresh.whole()._held) - {"text"} == {"image" if sees else "model"}
    assert torch.equal(fresh.encode_text(CAPTIONS).embed, before[0].embed) and fresh.fingerprint() == before[1]
    torch.testing.assert_close(fresh.model.state_dict(), clip.model.state_dict())
    assert fresh.logit_scale() == pytest.approx(fresh.model.logit_scale.exp().item())


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", ["simple", "small"])
def test_a_tower_that_was_moved_takes_the_image_tower_along(kind, before, request):
    folder, image = request.getfixturevalue(kind), torch.rand(1, 3, 32, 32)
    half = FrozenCLIP(folder)
    assert set(half._held) == {"text"}
    if before:
        half.whole()
    assert half.to(torch.bfloat16).encode_image(image).dtype == torch.bfloat16
    full = FrozenCLIP(folder).encode_image(image)
    assert torch.cosine_similarity(half.encode_image(image).float(), full).item() > 0.99


def test_what_was_read_whole_outlives_its_folder(small, tmp_path):
    """Whoever ships another model while this one draws."""
    clip, pictures = FrozenCLIP(shutil.copytree(small, tmp_path / "copy")).whole(), torch.rand(2, 3, 40, 40)
    shutil.rmtree(tmp_path / "copy")
    kept = FrozenCLIP(small)
    assert torch.equal(clip.encode_image(pictures), kept.encode_image(pictures)) and clip.logit_scale() == kept.logit_scale()


@torch.no_grad()
def test_token_states_pool_to_the_embedding(clip, plain):
    """The pooled embedding is a function of the states: what each family pools, from the states, gives it again."""
    model, _, tokenizer = plain
    tokens, out = tokenizer(CAPTIONS), clip.encode_text(CAPTIONS)
    tower = clip.text_tower
    assert out.states.shape[:2] == out.mask.shape == tokens.shape
    if isinstance(model, open_clip.CoCa):  # pools its class token; its states feed the caption decoder
        _, raw = model._encode_text(tokens)
        torch.testing.assert_close(out.states, model.text.ln_final(raw))
        return
    if not hasattr(tower, "ln_final"):
        full = tower.transformer(input_ids=tokens, attention_mask=(tokens != 3).long()).last_hidden_state
        torch.testing.assert_close(out.states, full)
        weights = (tokens != 3).float()[..., None]
        pooled = tower.proj((full * weights).sum(1) / weights.sum(1))
    else:
        pool = getattr(tower, "pool_type", None) or tower.text_pool_type
        rows = out.states[:, -1] if pool == "last" else out.states[torch.arange(len(tokens)), tokens.argmax(dim=1)]
        projection = tower.text_projection
        pooled = projection(rows) if isinstance(projection, torch.nn.Linear) else rows @ projection
    torch.testing.assert_close(out.embed, pooled)


def test_mask_runs_from_the_start_token_through_the_end_token(clip):
    mask = clip.encode_text(CAPTIONS).mask
    lengths = mask.sum(dim=1).tolist()
    assert lengths == [min(clip.num_tokens(c), clip.context_length) for c in CAPTIONS]
    assert (mask == (torch.arange(mask.shape[1]) < torch.tensor(lengths)[:, None])).all()
    tokens = clip.tokenize(CAPTIONS)
    end = getattr(clip.tokenizer, "eot_token_id", 1)  # 1: "</s>" of the tokenizers above
    assert [tokens[k, n - 1].item() for k, n in enumerate(lengths)] == [end] * 4
    assert not (tokens[:, :-1][mask[:, 1:]] == end).any(), "an end token before the last one of the mask"


def test_a_long_text_is_cut_and_keeps_its_end_token(clip):
    text = "dog " * 40
    assert clip.num_tokens(text) > clip.context_length == 12
    assert clip.tokenize([text]).shape == (1, 12)
    assert clip.encode_text([text]).mask.all()


def test_frozen(clip):
    assert list(clip.parameters()) == [] and clip.state_dict() == {}
    clip.train()
    assert not clip.training and not any(m.training for m in clip.model.modules())
    pixels = torch.zeros(1, 3, 32, 32, requires_grad=True)
    assert not clip.encode_image(pixels).requires_grad
    assert not any(t.requires_grad for t in (clip.encode_text(["ox"]).embed, clip.encode_text(["ox"]).states))


def test_copies_and_half_precision(clip):
    fingerprint, twin = clip.fingerprint(), copy.deepcopy(clip).to(torch.bfloat16)
    assert twin.dtype == torch.bfloat16 and clip.dtype == torch.float32 and clip.fingerprint() == fingerprint
    assert twin.encode_image(torch.zeros(2, 3, 32, 32)).dtype == torch.bfloat16
    full, half = clip.encode_text(CAPTIONS), twin.encode_text(CAPTIONS)
    assert half.embed.dtype == half.states.dtype == torch.bfloat16
    assert torch.cosine_similarity(full.embed, half.embed.float()).min() > 0.99
    assert (full.mask == half.mask).all()


def test_unit_variance_embeddings_have_length_sqrt_of_their_width(simple):
    raw, unit = FrozenCLIP(simple), FrozenCLIP(simple, unit_variance=True)
    expected = torch.nn.functional.normalize(raw.encode_text(CAPTIONS).embed, dim=-1) * 4  # sqrt(16)
    torch.testing.assert_close(unit.encode_text(CAPTIONS).embed, expected)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(unit.encode_image(image).square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(unit.encode_text(CAPTIONS).states, raw.encode_text(CAPTIONS).states)
    assert raw.fingerprint() != unit.fingerprint() == FrozenCLIP(simple, unit_variance=True).fingerprint()
    assert raw.embed_dim == 16 and raw.logit_scale() == pytest.approx(raw.model.logit_scale.exp().item())


@torch.no_grad()
@pytest.mark.parametrize("changed, image_too", [("text_projection", False), ("token_embedding.weight", False), ("visual.proj", True)])
def test_a_fingerprint_of_the_image_tower_alone(simple, tmp_path, changed, image_too):
    """Another text tower leaves the embeddings of pictures as they are."""
    folder = shutil.copytree(simple, tmp_path / "copy")
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    weights[changed] = weights[changed] + 1
    save_file(weights, file)
    clip, other = FrozenCLIP(simple), FrozenCLIP(folder)
    assert other.fingerprint() != clip.fingerprint()
    assert (other.image_fingerprint() != clip.image_fingerprint()) is image_too
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(other.encode_image(images), clip.encode_image(images)) is not image_too
    assert clip.image_fingerprint() == FrozenCLIP(simple).whole().image_fingerprint() != clip.fingerprint()


def test_equals_transformers_clip_with_the_same_weights(simple):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=24, intermediate_size=96, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=12, hidden_act="gelu", bos_token_id=49406, eos_token_id=49407,
        pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.CLIPTextModelWithProjection(config).eval()
    clip = FrozenCLIP(simple)
    state = clip.model.state_dict()
    mine = {"embeddings.token_embedding.weight": state["token_embedding.weight"],
            "embeddings.position_embedding.weight": state["positional_embedding"]}  # fmt: skip
    for part in ("weight", "bias"):
        mine[f"final_layer_norm.{part}"] = state[f"ln_final.{part}"]
        for k in range(2):
            new, old = f"encoder.layers.{k}", f"transformer.resblocks.{k}"
            names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                     "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
            mine |= {f"{new}.{a}.{part}": state[f"{old}.{b}.{part}"] for a, b in names.items()}
            for letter, third in zip("qkv", state[f"{old}.attn.in_proj_{part}"].chunk(3)):
                mine[f"{new}.self_attn.{letter}_proj.{part}"] = third
    mine = {f"text_model.{k}": v for k, v in mine.items()} | {"text_projection.weight": state["text_projection"].T}
    missing = theirs.load_state_dict(mine, strict=False)
    assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys)
    expected = theirs(clip.tokenize(CAPTIONS))
    out = clip.encode_text(CAPTIONS)
    torch.testing.assert_close(out.embed, expected.text_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.states, expected.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_squash_is_honoured(simple, tmp_path):
    """SigLIP squashes pictures that are not square; other models crop them."""
    wide = Image.effect_noise((96, 32), 80).convert("RGB")
    config = json.loads((simple / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes((simple / "open_clip_model.safetensors").read_bytes())
    wide.save(tmp_path / "wide.png")
    encoded = (tmp_path / "wide.png").read_bytes()
    for folder in (simple, tmp_path):
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        with torch.no_grad():
            expected = model.eval().encode_image(preprocess(wide)[None])
        clip = FrozenCLIP(folder)
        torch.testing.assert_close(clip.encode_image([wide]), expected, rtol=1e-4, atol=1e-5)
        from_shard = to_float(decode(encoded, 32, clip.squash))[None]
        torch.testing.assert_close(clip.encode_image(from_shard), expected, rtol=1e-4, atol=1e-5)
    assert FrozenCLIP(simple).fingerprint() != clip.fingerprint()  # the same weights see another picture


def test_a_tag_trained_with_quick_gelu_gets_it(monkeypatch, simple):
    """OpenCLIP itself warns, and goes on with the activation that the weights were not trained with."""
    factory = open_clip.factory
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny", OWN["clip"])
    tags = {"openai": {"quick_gelu": True}, "laion": {"hf_hub": "a/b/"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    weights = str(simple / "open_clip_model.safetensors")
    monkeypatch.setattr(factory, "download_pretrained", lambda *args, **kwargs: weights)
    quick, plain = FrozenCLIP("tiny", "openai"), FrozenCLIP("tiny", "laion")
    kind = open_clip.transformer.QuickGELU
    assert any(isinstance(m, kind) for m in quick.model.transformer.modules())
    assert not any(isinstance(m, kind) for m in plain.model.transformer.modules())


@pytest.fixture
def pickles(simple, tmp_path, monkeypatch):
    """Weights that OpenCLIP would unpickle: a folder's, and those of a hub that has no safetensors."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes((simple / "open_clip_config.json").read_bytes())
    torch.save(load_file(simple / "open_clip_model.safetensors"), folder / "open_clip_pytorch_model.bin")

    def download(repo_id, filename, **_):
        if not (folder / filename).is_file():
            raise FileNotFoundError(filename)
        return str(folder / filename)

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", OWN["clip"])
    tags = {"hub": {"hf_hub": "a/b/"}, "address": {"url": "https://example.com/weights.pt"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("unpickled"))
    return folder


@pytest.mark.parametrize(
    "name, pretrained", [("tiny", "hub"), ("tiny", "address"), ("hf-hub:a/b", None), ("folder", None)]
)
def test_weights_that_come_as_a_pickle_are_refused(pickles, simple, monkeypatch, name, pretrained):
    def download(*args, **kwargs):
        pytest.fail("downloaded")

    monkeypatch.setattr(open_clip.pretrained.urllib.request, "urlopen", download)
    if name == "folder":  # OpenCLIP prefers the pickle's name to this one
        (pickles / "model.safetensors").write_bytes((simple / "open_clip_model.safetensors").read_bytes())
    reader = open_clip.factory.load_checkpoint
    with pytest.raises(UserError, match="only safetensors are read") as caught:
        FrozenCLIP(pickles if name == "folder" else name, pretrained)
    assert "\n" not in str(caught.value)
    assert open_clip.factory.load_checkpoint is reader  # put back


@pytest.mark.parametrize("name, pretrained", [("tiny", "hub"), ("hf-hub:a/b", None), ("folder", None)])
def test_safetensors_beside_a_pickle_are_read(pickles, simple, name, pretrained):
    (pickles / "open_clip_model.safetensors").write_bytes((simple / "open_clip_model.safetensors").read_bytes())
    clip = FrozenCLIP(pickles if name == "folder" else name, pretrained)
    assert clip.fingerprint() == FrozenCLIP(simple).fingerprint()


def test_a_folder_with_a_pickle_and_some_other_safetensors_is_unfinished(pickles):
    save_file({"mean": torch.zeros(3)}, pickles / "statistics.safetensors")
    with pytest.raises(UserError, match="lacks open_clip_model.safetensors or model.safetensors"):
        FrozenCLIP(pickles)


@pytest.mark.parametrize(
    "name, pretrained, says",
    [
        ("ViT-B-32", None, "no weights named; its tags are openai"),
        ("ViT-B/32", "opnai", "did you mean 'openai'"),
        ("ViT-B32", "openai", "did you mean 'ViT-B-32'"),
        ("no/such/folder", None, "no CLIP 'no/such/folder'"),
        ("local-dir:no/such", None, "no CLIP folder no/such"),
    ],
)
def test_unknown_names_end_in_one_line(name, pretrained, says):
    with pytest.raises(UserError, match=says) as caught:
        FrozenCLIP(name, pretrained)
    assert "\n" not in str(caught.value)


def test_unfinished_folders_end_in_one_line(simple, tmp_path):
    def refused(says, **kwargs):
        with pytest.raises(UserError, match=says) as caught:
            FrozenCLIP(tmp_path, **kwargs)
        assert "\n" not in str(caught.value)

    refused("lacks open_clip_config.json")
    (tmp_path / "open_clip_config.json").write_bytes((simple / "open_clip_config.json").read_bytes())
    refused("lacks open_clip_model.safetensors")
    weights = (simple / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights[:1000])
    refused("cannot load CLIP")
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "open_clip_model.safetensors")
    refused("cannot load CLIP")  # weights are missing: they must not stay random in silence
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
    refused("brings its own weights", pretrained="openai")
    state = load_file(tmp_path / "open_clip_model.safetensors")
    save_file({k: v for k, v in state.items() if k != "visual.proj"}, tmp_path / "open_clip_model.safetensors")
    lame = FrozenCLIP(tmp_path)  # its text tower is whole, and all that is read until a picture comes
    with pytest.raises(UserError, match="cannot load CLIP"):
        lame.encode_image(torch.zeros(1, 3, 32, 32))
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
    assert FrozenCLIP(tmp_path).embed_dim == 16


@pytest.mark.parametrize("ask", [
    FrozenCLIP.whole, lambda clip: clip.encode_image(torch.zeros(1, 3, 32, 32)),
    lambda clip: clip.encode_image([Image.new("RGB", (40, 32))]), lambda clip: clip.image_size, lambda clip: clip.pixel_stats,
])  # fmt: skip
@pytest.mark.parametrize("weight, value, says", [
    ("head.proj.weight", None, "it lacks projection.weight"),
    ("trunk.stages.1.conv_down.bn.running_var", torch.ones(3), "stages.1.down.variance is 3 and not 64"),
    ("trunk.stem.conv1.bn.bias", torch.ones(16, dtype=torch.int32), "stem.0.shift is of I32"),
    ("trunk.head.fc.weight", torch.ones(3), "it has head.fc.weight besides"),
])  # fmt: skip
def test_a_plain_image_tower_of_a_misfit_folder_ends_in_one_line(small, tmp_path, ask, weight, value, says):
    folder = shutil.copytree(small, tmp_path / "copy")
    state = load_file(folder / "open_clip_model.safetensors")
    others = {key: tensor for key, tensor in state.items() if key != f"visual.{weight}"}
    save_file(others | ({} if value is None else {f"visual.{weight}": value}), folder / "open_clip_model.safetensors")
    clip = FrozenCLIP(folder)
    assert clip.encode_text(["a dog"]).embed.shape == (1, 16)  # all that is read until a picture comes
    with pytest.raises(UserError, match=f"does not fit its open_clip_config.json: {says}") as caught:
        ask(clip)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, torch.ones(3)])
def test_a_temperature_that_is_no_number_ends_in_one_line(small, tmp_path, value):
    folder = shutil.copytree(small, tmp_path / "copy")
    state = load_file(folder / "open_clip_model.safetensors")
    del state["logit_scale"]
    save_file(state | ({} if value is None else {"logit_scale": value}), folder / "open_clip_model.safetensors")
    for ask in (FrozenCLIP.logit_scale, FrozenCLIP.whole):
        with pytest.raises(UserError, match="cannot load CLIP") as caught:
            ask(FrozenCLIP(folder))
        assert "\n" not in str(caught.value)


def test_a_hub_model_without_weights_is_refused(monkeypatch):
    """OpenCLIP itself would go on with random weights."""
    factory = open_clip.factory
    monkeypatch.setattr(factory, "_get_hf_config", lambda *args, **kwargs: {"model_cfg": dict(OWN["clip"])})

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(factory, "download_pretrained_from_hf", offline)
    with pytest.raises(UserError, match="cannot load CLIP hf-hub:someone/some-clip .Required pretrained weights"):
        FrozenCLIP("hf-hub:someone/some-clip")
