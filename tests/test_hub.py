"""Where models are looked for, and which CLIP a model folder has."""

import json
import shutil

import pytest
import torch

from unclip import hub
from unclip.errors import UserError, first_line
from unclip.model_index import read_index
from unclip.openclip.building import build_clip, save_clip

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "model"
    save_clip(build_clip(CONFIG).state_dict(), CONFIG, ((0.5,) * 3, (0.5,) * 3), path / "clip")
    entry = {"name": "clip", "pretrained": None, "unit_variance": True}
    (path / "model_index.json").write_text(json.dumps({"clip": entry}))
    return path


def test_pocket_is_a_folder_of_the_repository(monkeypatch, model, tmp_path):
    monkeypatch.setattr(hub, "POCKET", model)
    assert hub.model_folder("pocket") == model
    monkeypatch.setattr(hub, "POCKET", tmp_path)  # empty
    with pytest.raises(UserError, match="no pocket model in"):
        hub.model_folder("pocket")


def test_a_folder_is_itself(model):
    assert hub.model_folder(model) == hub.model_folder(str(model)) == model


def test_a_hub_id_is_fetched(monkeypatch, model):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(model))
    assert hub.model_folder("someone/some-model") == model and asked == ["someone/some-model"]

    def offline(name, **_):
        raise ConnectionError("no route to host\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="cannot be fetched from the Hugging Face hub: no route to host$"):
        hub.model_folder("someone/some-model")


@pytest.mark.parametrize("name", ["no-such-folder", "./no/such", "/no/such/folder", "a/b/c", "../x"])
def test_what_is_no_hub_id_is_never_asked_for(monkeypatch, name):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="no model folder"):
        hub.model_folder(name)


def test_the_clip_of_a_model(model, tmp_path):
    clip = hub.load_clip(model)
    assert clip.unit_variance and clip.encode_text(["ox"]).embed.square().mean().item() == pytest.approx(1, rel=1e-5)
    assert hub.any_clip(model).fingerprint() == clip.fingerprint()
    assert not hub.any_clip(model / "clip").unit_variance  # an OpenCLIP folder: as OpenCLIP computes it
    index = json.loads((model / "model_index.json").read_text())
    for broken, says in [
        (None, "lacks model_index.json"),
        ("{", "is damaged"),
        ("{}", "is damaged"),
        ('{"clip": "clip"}', "is damaged"),
        ('{"clip": {"name": "clip"}}', "is damaged"),
        ('{"clip": {"name": 5, "unit_variance": true}}', "is damaged"),
        ('{"clip": {"name": "clip", "unit_variance": "yes"}}', "is damaged"),
        (json.dumps(index), "has no clip"),
        (json.dumps({"clip": {**index["clip"], "name": "ViT-B32"}}), "did you mean 'ViT-B-32'"),
    ]:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        if broken:
            (tmp_path / "model_index.json").write_text(broken)
        with pytest.raises(UserError, match=says):
            hub.load_clip(tmp_path)


def test_another_clip_than_the_recorded_one_is_refused_with_both(model_copy):
    index, right = json.loads((model_copy / "model_index.json").read_text()), hub.load_clip(model_copy).fingerprint()
    for recorded in (None, right):
        index["clip"]["fingerprint"] = recorded
        (model_copy / "model_index.json").write_text(json.dumps(index))
        assert hub.load_clip(model_copy).fingerprint() == right
    index["clip"]["fingerprint"] = "0123456789"
    (model_copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"CLIP clip of checksum 0123456789, but .*clip here has {right}"):
        hub.load_clip(model_copy)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"clip": {"name": "clip"}}'])
def test_a_bad_index_is_told_alike_by_the_clip_and_by_the_whole_model(tmp_path, content):
    if content:
        (tmp_path / "model_index.json").write_text(content)
    said = []
    for reader in (hub.load_clip, read_index):
        with pytest.raises(UserError) as caught:
            reader(tmp_path)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_first_line():
    assert first_line(ValueError("\n  one \n\n two\nthree")) == "one"
    assert first_line(ValueError("\n  one \n\n two\nthree"), 2) == "one two"
    assert first_line(KeyError()) == first_line(KeyError(), 2) == "KeyError"
    assert len(first_line(ValueError("x" * 1000))) == 300


def test_a_folder_that_is_called_like_the_clip_is_not_taken_for_it(model, tmp_path, monkeypatch):
    shutil.copytree(model / "clip", tmp_path / "ViT-B-32")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({"clip": {"name": "ViT-B-32", "unit_variance": True}}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="here that is a folder, not the model's"):
        hub.load_clip("model")


def test_links_of_the_hubs_cache_are_followed(model, tmp_path):
    """A snapshot there is a folder of links to blobs beside it."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    for number, file in enumerate(f for f in model.rglob("*") if f.is_file()):
        shutil.copyfile(file, blobs / str(number))
        link = snapshot / file.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    assert hub.load_clip(snapshot).fingerprint() == hub.load_clip(model).fingerprint()
