import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unclip.clip import FrozenCLIP
from unclip.errors import UserError
from unclip.openclip.building import build_clip, save_clip
from unclip.openclip.folder import FOLDER_CONFIG, plain_folder
from unclip.openclip.library import import_open_clip


def test_the_weights_of_a_plain_folder_go_into_its_text_tower(model_files):
    """Each of them, in float32, under the names of ours."""
    plain = plain_folder(f"local-dir:{model_files / 'clip'}")
    saved = load_file(model_files / "clip" / "open_clip_model.safetensors")
    assert plain.file == model_files / "clip" / "open_clip_model.safetensors" and plain.preprocess["mean"] == [0.5] * 3
    assert plain.weights().keys() == saved.keys()
    tower = plain.text_tower("cpu")
    text = [weight for name, weight in saved.items() if not name.startswith(("visual.", "logit_scale"))]
    assert sorted(w.double().sum().item() for w in text) == sorted(w.double().sum().item() for w in tower.state_dict().values())
    assert torch.equal(tower.blocks[0].norm_1.weight, saved["transformer.resblocks.0.ln_1.weight"])
    assert torch.equal(tower.projection, saved["text_projection"])
    assert not tower.training and not any(p.requires_grad or p.dtype != torch.float32 for p in tower.parameters())


def test_what_is_no_plain_folder_is_left_to_open_clip(model_files, tmp_path):
    assert plain_folder("hf-hub:someone/some-clip") is None and plain_folder("ViT-L-14") is None
    folder = shutil.copytree(model_files / "clip", tmp_path / "clip")
    name, path = f"local-dir:{folder}", folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    assert plain_folder(name) is not None
    for model in ({"quick_gelu": True}, {"text_cfg": {**config["model_cfg"]["text_cfg"], "no_causal_mask": True}}):
        path.write_text(json.dumps({**config, "model_cfg": {**config["model_cfg"], **model}}))
        assert plain_folder(name) is None
    path.write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")  # beside which OpenCLIP may find others
    assert plain_folder(name) is None


VISION = {"timm_model_name": "cs3darknet_s", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 64}
STATS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def small(model_files, tmp_path_factory):
    """A CLIP whose image tower is plain as well, with random weights, statistics too."""
    config = {**json.loads((model_files / "clip" / FOLDER_CONFIG).read_text())["model_cfg"], "vision_cfg": VISION}
    torch.manual_seed(0)
    state = build_clip(config).state_dict()
    for name, value in state.items():
        if name.startswith("visual.") and value.ndim == 1:
            state[name] = value + 0.4 * torch.rand_like(value)
    folder = tmp_path_factory.mktemp("clips") / "small"
    save_clip(state, config, STATS, folder)
    return folder


def edited(folder, to, change):
    """A copy of a CLIP folder; change(config) changes its config."""
    folder = shutil.copytree(folder, to)
    config = json.loads((folder / FOLDER_CONFIG).read_text())
    change(config)
    (folder / FOLDER_CONFIG).write_text(json.dumps(config))
    return folder


def test_the_weights_of_a_plain_folder_go_into_its_image_tower(small):
    """Each of them, in float32, under the names of ours; those of the text tower into that."""
    plain, saved = plain_folder(f"local-dir:{small}"), load_file(small / "open_clip_model.safetensors")
    tower = plain.image_tower("cpu")
    image = [w for name, w in saved.items() if name.startswith("visual.") and not name.endswith("num_batches_tracked")]
    assert sorted(w.double().sum().item() for w in image) == sorted(w.double().sum().item() for w in tower.state_dict().values())
    assert torch.equal(tower.stages[1].blocks[2].conv_2.variance, saved["visual.trunk.stages.1.blocks.2.conv2.bn.running_var"])
    assert torch.equal(tower.projection.weight, saved["visual.head.proj.weight"])
    assert not tower.training and not any(p.requires_grad or p.dtype != torch.float32 for p in tower.parameters())
    assert (plain.image_size, plain.pixel_stats) == (64, STATS)
    assert plain.text_tower("cpu").projection.shape == (16, 16)


@pytest.mark.parametrize("change", [
    {"timm_pool": "avg"}, {"timm_proj_bias": True}, {"timm_drop": 0.1}, {"image_size": [64, 64]}, {"timm_model_pretrained": None},
    {"timm_model_name": "cs3darknet_focus_s"},
])  # fmt: skip
def test_another_image_tower_is_left_to_open_clip_and_sees_the_same(small, tmp_path, change):
    """Most of these are the same tower, said in another way; the bias and the focus's first layer are not."""
    folder = edited(small, tmp_path / "clip", lambda config: config["model_cfg"]["vision_cfg"].update(change))
    config = json.loads((folder / FOLDER_CONFIG).read_text())["model_cfg"]
    save_file(build_clip(config).state_dict(), folder / "open_clip_model.safetensors")
    assert plain_folder(f"local-dir:{folder}").image_tower("cpu") is None
    clip, images = FrozenCLIP(folder), 2 * torch.rand(2, 3, 64, 64) - 1
    theirs = import_open_clip().create_model(f"local-dir:{folder}").eval()
    mean, std = torch.tensor(STATS)[:, :, None, None]
    with torch.no_grad():
        expected = theirs.encode_image(((images + 1) / 2 - mean) / std)
    torch.testing.assert_close(clip.encode_image(images), expected)
    assert set(clip._held) == {"text", "model"} and clip.image_size == 64 and clip.pixel_stats == STATS


@pytest.mark.parametrize("key, value", [
    ("mean", None), ("std", [0.5]), ("mean", ["0", "0", "0"]), ("std", 1), ("mean", [10**400, 0, 0]), ("std", [float("nan")] * 3),
])  # fmt: skip
def test_so_is_one_that_is_not_told_how_pixels_are_scaled(small, tmp_path, key, value):
    folder = edited(small, tmp_path / "clip", lambda config: config["preprocess_cfg"].update({key: value}))
    assert plain_folder(f"local-dir:{small}").image_is_plain and not plain_folder(f"local-dir:{folder}").image_is_plain


@pytest.mark.parametrize("vision", [None, [], "cs3darknet_s", {}, {**VISION, "timm_model_name": ["cs3darknet_s"]}, {**VISION, "width": 8}])
def test_so_is_what_describes_no_tower(small, tmp_path, vision):
    folder = edited(small, tmp_path / "clip", lambda config: config["model_cfg"].update(vision_cfg=vision))
    assert not plain_folder(f"local-dir:{folder}").image_is_plain
    assert FrozenCLIP(folder).encode_text(["a dog"]).embed.shape == (1, 16)


@pytest.mark.parametrize("change, says", [
    ({"image_size": 0}, "image_size is no number from 1 to"), ({"image_size": 10**9}, "image_size is no number from 1 to"),
    ({"timm_model_name": "cs3darknet_m"}, "stem.0.scale is 16 and not 24"),
])  # fmt: skip
def test_a_plain_image_tower_that_cannot_be_is_refused_when_it_is_asked_for(small, tmp_path, change, says):
    clip = FrozenCLIP(edited(small, tmp_path / "clip", lambda config: config["model_cfg"]["vision_cfg"].update(change)))
    with pytest.raises(UserError, match=says) as error:
        clip.whole()
    assert "\n" not in str(error.value)


def changed_folder(model_files, tmp_path, **text):
    """A copy of a CLIP folder whose text_cfg says more; see `CLIP_CONFIG`."""
    folder = shutil.copytree(model_files / "clip", tmp_path / "clip")
    config = json.loads((folder / FOLDER_CONFIG).read_text())
    config["model_cfg"]["text_cfg"].update(text)
    (folder / FOLDER_CONFIG).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("text", [
    {"layers": 10**6}, {"width": 10**9}, {"context_length": 10**9}, {"vocab_size": 10**9}, {"heads": 0}, {"vocab_size": 100},
    {"layers": 2}, {"width": "24"},
])  # fmt: skip
@pytest.mark.parametrize("plain", [True, False])
def test_a_config_that_does_not_fit_its_weights_is_refused_before_they_are_read(model_files, tmp_path, text, plain):
    folder = changed_folder(model_files, tmp_path, **text, **({} if plain else {"no_causal_mask": False}))
    with pytest.raises(UserError, match="cannot load|does not fit|fewer tokens|asks for") as error:
        FrozenCLIP(folder).encode_text([""])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("vision", [{"width": 2**15, "layers": 40}, {"layers": 10**5}, {"image_size": 2**20}])
def test_so_is_an_image_tower_when_it_is_asked_for(model_files, tmp_path, vision):
    folder = changed_folder(model_files, tmp_path)
    config = json.loads((folder / FOLDER_CONFIG).read_text())
    config["model_cfg"]["vision_cfg"].update(vision)
    (folder / FOLDER_CONFIG).write_text(json.dumps(config))
    clip = FrozenCLIP(folder)
    with pytest.raises(UserError, match="cannot load|asks for"):
        clip.whole()


def test_a_text_tower_of_wrong_shapes_is_named(model_files, tmp_path):
    folder = changed_folder(model_files, tmp_path)
    tensors = load_file(folder / "open_clip_model.safetensors")
    tensors["ln_final.weight"] = torch.ones(5)
    save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="norm_out.weight is 5 and not 16"):
        FrozenCLIP(folder)


@pytest.mark.parametrize("kwargs", [{"trust_remote_code": True}, {}])
def test_code_beside_a_tokenizer_is_never_run(model_files, tmp_path, kwargs, monkeypatch):
    """transformers runs it where a config's tokenizer_kwargs say so, or where the user is asked and says yes."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    proof = tmp_path / "proof"
    folder = changed_folder(model_files, tmp_path, hf_tokenizer_name="x", tokenizer_kwargs=kwargs)
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Evil:\n    pass\n")
    entry = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(entry))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    with pytest.raises(UserError, match="trust_remote_code|cannot load CLIP"):
        FrozenCLIP(folder)
    assert not proof.exists()


def test_no_other_file_is_read_as_the_vocabulary(model_files, tmp_path):
    folder = changed_folder(model_files, tmp_path, tokenizer_kwargs={"bpe_path": str(tmp_path / "secret.gz")})
    with pytest.raises(UserError, match="'bpe_path'"):
        FrozenCLIP(folder)
