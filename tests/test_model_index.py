import json
import shutil

import pytest

from unclip.data.captions import ClassCaptions
from unclip.errors import UserError
from unclip.model_index import (
    begin_model, read_classes, read_clip_entry, read_index, read_vocabulary, upsampler_folders, write_classes, write_vocabulary,
)  # fmt: skip


@pytest.fixture
def clip_folder(tmp_path):
    folder = tmp_path / "my-clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    return folder


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_an_index_is_read_as_it_stands(model_files):
    index = read_index(model_files)
    assert index["clip"] == {"name": "clip", "pretrained": None, "unit_variance": True, "fingerprint": None}
    assert index["defaults"] == {"num_inference_steps": 3, "prior_num_inference_steps": 2}


def test_no_index(tmp_path):
    with pytest.raises(UserError, match=r"lacks model_index\.json"):
        read_index(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"clip": {"na', b"[]", b"null", b'{"defaults": {}}', b'{"clip": 3}', b"\xff"])
def test_a_damaged_index(model_copy, content):
    (model_copy / "model_index.json").write_bytes(content)
    with pytest.raises(UserError, match=r"model_index\.json is damaged"):
        read_index(model_copy)


@pytest.mark.parametrize("part", ["prior", "decoder"])
def test_a_part_not_trained_yet(model_copy, part):
    shutil.rmtree(model_copy / part)
    with pytest.raises(UserError, match=rf"no {part} yet: run scripts/train_{part}\.py"):
        read_index(model_copy)


def test_a_model_takes_its_clip_along(clip_folder, tmp_path):
    out = tmp_path / "model"
    begin_model(out, clip_folder, None, True)
    assert files_of(out / "clip") == files_of(clip_folder)
    index = json.loads((out / "model_index.json").read_text())
    assert index["clip"] == {"name": "clip", "pretrained": None, "unit_variance": True, "fingerprint": None}
    before = files_of(out / "clip")
    begin_model(out, f"local-dir:{clip_folder}", None, True)  # the second training, or the same one again
    assert files_of(out / "clip") == before


def test_a_named_clip_is_not_copied(tmp_path):
    begin_model(tmp_path / "model", "ViT-L-14", "openai", False)
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["clip"] == {
        "name": "ViT-L-14", "pretrained": "openai", "unit_variance": False, "fingerprint": None,
    }  # fmt: skip
    assert not (tmp_path / "model" / "clip").exists()


def test_beginning_again_keeps_parts_and_defaults(clip_folder, tmp_path):
    out = tmp_path / "model"
    begin_model(out, clip_folder, None, True)
    index = json.loads((out / "model_index.json").read_text())
    (out / "model_index.json").write_text(json.dumps({**index, "defaults": {"guidance_scale": 3.5}}))
    (out / "prior").mkdir()
    begin_model(out, clip_folder, None, True)
    assert json.loads((out / "model_index.json").read_text())["defaults"] == {"guidance_scale": 3.5}
    assert (out / "prior").is_dir()


def test_a_model_of_another_clip_is_not_mixed(clip_folder, tmp_path):
    out = tmp_path / "model"
    begin_model(out, clip_folder, None, True)
    before = (out / "model_index.json").read_bytes()
    for other in (("ViT-L-14", "openai", True), (clip_folder, None, False)):
        with pytest.raises(UserError, match="choose another folder"):
            begin_model(out, *other)
    (clip_folder / "open_clip_model.safetensors").write_bytes(b"retrain")  # as long, but other weights
    with pytest.raises(UserError, match="is not the CLIP"):
        begin_model(out, clip_folder, None, True)
    assert (out / "model_index.json").read_bytes() == before
    assert (out / "clip" / "open_clip_model.safetensors").read_bytes() == b"weights"


def test_the_clip_of_a_model_is_recorded_and_no_other_weights_are_mixed_in(tmp_path):
    out = tmp_path / "model"
    begin_model(out, "ViT-L-14", "openai", False)  # as it was before checksums were recorded
    assert read_clip_entry(out)["fingerprint"] is None
    for fingerprint in ("0123456789", None):
        begin_model(out, "ViT-L-14", "openai", False, fingerprint)
        assert read_clip_entry(out)["fingerprint"] == "0123456789"
    with pytest.raises(UserError, match="0123456789.*choose another folder"):
        begin_model(out, "ViT-L-14", "openai", False, "9876543210")


def test_upsamplers_are_found_in_order(tmp_path):
    assert upsampler_folders(tmp_path) == []
    for k in range(1, 12):
        (tmp_path / f"upsampler-{k}").mkdir()
    assert [p.name for p in upsampler_folders(tmp_path)] == [f"upsampler-{k}" for k in range(1, 12)]
    (tmp_path / "upsampler-old").mkdir()
    assert len(upsampler_folders(tmp_path)) == 11
    (tmp_path / "upsampler-2").rmdir()
    with pytest.raises(UserError, match="no upsampler-2"):
        upsampler_folders(tmp_path)


def test_vocabulary(tmp_path):
    assert read_vocabulary(tmp_path) == set()
    write_vocabulary(tmp_path, {"dog", "cat", "crème"})
    assert read_vocabulary(tmp_path) == {"dog", "cat", "crème"}
    (tmp_path / "vocabulary.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"vocabulary\.txt"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize("name", [
    "../other", "..", ".", "/etc", "/", "clip/..", "clip/../../other", "~/clip", "local-dir:/tmp", "local-dir:clip",
    "C:\\clip", "a/b/c", "", "hf-hub:../x", "hf-hub:/etc/x", "clip\n", "\x1b[2J", "file:///etc",
])  # fmt: skip
def test_an_index_names_no_path(tmp_path, name):
    """Nothing outside the model's folder, though it be there."""
    (tmp_path / "other").mkdir()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"clip": {"name": name, "unit_variance": True}}))
    with pytest.raises(UserError, match="names the CLIP .* a path") as error:
        read_clip_entry(folder)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["clip", "ViT-B/32", "ViT-L-14-336", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
def test_an_index_names_its_own_clip_or_one_of_open_clip(tmp_path, name):
    (tmp_path / "model_index.json").write_text(json.dumps({"clip": {"name": name, "unit_variance": True}}))
    assert read_clip_entry(tmp_path)["name"] == name


def test_every_name_of_open_clip_can_stand_in_an_index():
    import open_clip

    from unclip.model_index import CLIP_NAME

    assert all(CLIP_NAME.fullmatch(name) for name in open_clip.list_models())


@pytest.mark.parametrize("clip", [{"pretrained": 5}, {"pretrained": ["openai"]}, {"fingerprint": 1}, {"name": ["clip"]}])
def test_an_index_of_wrong_types_is_damaged(tmp_path, clip):
    entry = {"name": "clip", "unit_variance": True, **clip}
    (tmp_path / "model_index.json").write_text(json.dumps({"clip": entry}))
    with pytest.raises(UserError, match="is damaged"):
        read_clip_entry(tmp_path)


def test_a_file_of_weights_needs_its_checksum(tmp_path):
    entry = {"name": "ViT-B-32", "pretrained": "/data/own.safetensors", "unit_variance": True}
    for fingerprint, fine in ((None, False), ("0123456789", True)):
        (tmp_path / "model_index.json").write_text(json.dumps({"clip": {**entry, "fingerprint": fingerprint}}))
        if fine:
            assert read_clip_entry(tmp_path)["pretrained"] == "/data/own.safetensors"
        else:
            with pytest.raises(UserError, match="without its checksum"):
                read_clip_entry(tmp_path)


def test_classes(tmp_path):
    assert read_classes(tmp_path) is None
    known = ClassCaptions(names=[["dog", "hound"], ["crème"]], nouns=[["animal"], []])
    write_classes(tmp_path, known)
    assert read_classes(tmp_path) == known
    for damaged in ('{"names": [["dog"', '{"names": 3, "nouns": []}', '[]', '{"names": [[]], "nouns": [[]]}'):
        (tmp_path / "classes.json").write_text(damaged)
        with pytest.raises(UserError, match=r"classes\.json is damaged: copy it again, or remove it"):
            read_classes(tmp_path)
