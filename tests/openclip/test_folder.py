import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unclip.clip import FrozenCLIP
from unclip.errors import UserError
from unclip.openclip.folder import FOLDER_CONFIG, plain_folder


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
