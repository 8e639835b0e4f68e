import json
import shutil

import torch
from safetensors.torch import load_file

from unclip.openclip.folder import plain_folder


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
