import json

import pytest
from conftest import CLIP_CONFIG

from unclip.clip import FrozenCLIP
from unclip.data import manifest
from unclip.data.beside import write_beside
from unclip.data.caption_embeddings import Captions, texts_file
from unclip.data.embeddings import embeddings_file, shard_embeddings
from unclip.data.encoding import encoded_shards
from unclip.data.manifest import all_shards, check_manifest, manifest_file, write_manifest
from unclip.data.shards import estimated_samples
from unclip.errors import UserError
from unclip.openclip.building import build_clip, save_clip

from .pictures import captioned_tar


@pytest.fixture(scope="module")
def clip(model_files):
    return FrozenCLIP(model_files / "clip", unit_variance=True).whole()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A CLIP of the same architecture with other weights."""
    folder = tmp_path_factory.mktemp("clips") / "other"
    save_clip(build_clip(CLIP_CONFIG).state_dict(), CLIP_CONFIG, ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), folder)
    return FrozenCLIP(folder, unit_variance=True).whole()


@pytest.fixture
def folder(clip, tmp_path):
    """Two splits, of two shards and one, embedded; a manifest of them."""
    for name, numbers in (("train/0", range(3)), ("train/1", range(3, 7)), ("test/0", range(2))):
        shard = captioned_tar(tmp_path / f"{name}.tar", numbers)
        shard_embeddings(shard, clip, clip.image_fingerprint())
    write_manifest(tmp_path, clip.identity, clip.image_fingerprint())
    return tmp_path


def test_what_it_says(folder, clip):
    said = json.loads((folder / f"embeddings.{clip.image_fingerprint()}.json").read_text())
    assert said["clip"] == clip.identity and said["clip"]["name"].endswith("/tiny/clip")
    assert (said["shards"], said["pictures"], said["computed_in"], said["kept_in"]) == (3, 9, ["float32"], "float16")
    assert {name: entry["pictures"] for name, entry in said["files"].items()} == {
        "train/0.tar": 3, "train/1.tar": 4, "test/0.tar": 2
    }  # fmt: skip
    for name, entry in said["files"].items():
        shard = folder / name
        file = embeddings_file(shard, clip.image_fingerprint())
        assert (entry["shard_bytes"], entry["bytes"]) == (shard.stat().st_size, file.stat().st_size)


def test_a_folder_that_is_as_it_says_will_do(folder, clip):
    check_manifest(folder, clip)
    captioned_tar(folder / "train" / "2.tar", range(5))  # to be embedded at the start of a training, as ever
    check_manifest(folder, clip)


def test_a_folder_without_manifests_will_do(folder, clip, other, monkeypatch):
    monkeypatch.setattr(manifest, "MOST", 0)
    manifest_file(folder, clip.image_fingerprint()).unlink()
    check_manifest(folder, other)


@pytest.mark.parametrize("harm, says", [
    ("no file", r"cannot read .*train/1.*safetensors \(No such file"), ("no shard", r"cannot read .*train/1.tar \(No such"),
    ("cut off", "1.*safetensors is another file"), ("another shard", "train/1.tar is another file"),
    ("made anew", "1.*safetensors is another file"),
])  # fmt: skip
def test_what_does_not_fit_is_named(folder, clip, harm, says):
    shard = folder / "train" / "1.tar"
    file = embeddings_file(shard, clip.image_fingerprint())
    if harm == "no file":
        file.unlink()
    elif harm == "no shard":
        shard.unlink()
    elif harm == "cut off":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        captioned_tar(shard, range(13, 17) if harm == "made anew" else range(30))  # other keys, as many bytes
        if harm == "made anew":
            file.unlink()
            shard_embeddings(shard, clip, clip.image_fingerprint())
    with pytest.raises(UserError, match=f"{says}.*; copy that again, or run scripts/embed.py again"):
        check_manifest(folder, clip)


@pytest.mark.parametrize("enough", [True, False])
def test_another_clip_is_refused_where_there_is_too_much_to_embed(folder, other, monkeypatch, enough):
    count = estimated_samples(all_shards(folder))
    monkeypatch.setattr(manifest, "MOST", count - 1 + enough)
    if enough:
        return check_manifest(folder, other)
    with pytest.raises(UserError, match=rf"another CLIP \(.*/tiny/clip, not .*/other\), and about {count} pictures"):
        check_manifest(folder, other)
    for shard in all_shards(folder):  # what is there need not be embedded
        shard_embeddings(shard, other, other.image_fingerprint())
    check_manifest(folder, other)


def test_the_difference_is_named(folder, clip, other, model_files, monkeypatch):
    monkeypatch.setattr(manifest, "MOST", 0)
    with pytest.raises(UserError, match=r"\(unit_variance True, not False\)"):
        check_manifest(folder, FrozenCLIP(model_files / "clip").whole())
    monkeypatch.setattr(FrozenCLIP, "identity", clip.identity)
    with pytest.raises(UserError, match=f"the same name, but other weights: checksum {clip.image_fingerprint()}, not "):
        check_manifest(folder, other)
    monkeypatch.setattr(FrozenCLIP, "identity", {**clip.identity, "pretrained": "openai"})
    with pytest.raises(UserError, match="weights None, not openai"):
        check_manifest(folder, other)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"clip": {}}', '{"files": {"a": {}}, "fingerprint": "x", "clip": {}}'])
def test_a_manifest_that_cannot_be_read(folder, clip, content):
    path = manifest_file(folder, clip.image_fingerprint())
    path.write_text(content)
    with pytest.raises(UserError, match=f"cannot read {path}: remove it"):
        check_manifest(folder, clip)


@pytest.mark.parametrize("name", ["a\0.tar", "/", ".."])
def test_a_manifest_that_names_no_shard(folder, clip, name):
    path = manifest_file(folder, clip.image_fingerprint())
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "files": {name: said["files"]["test/0.tar"]}}))
    with pytest.raises(UserError, match="does not fit the data: "):
        check_manifest(folder, clip)


def test_those_of_captions_are_others(folder, clip):
    assert manifest_file(folder, "abc", Captions).name == "embeddings.abc.text.json"
    path = write_manifest(folder, clip.identity, clip.fingerprint(), Captions)
    assert json.loads(path.read_text())["shards"] == 0  # nobody embedded captions
    check_manifest(folder, clip)


def test_shards_of_a_folder(folder, tmp_path_factory):
    names = ["test/0.tar", "train/0.tar", "train/1.tar"]
    assert [str(s.relative_to(folder)) for s in all_shards(folder)] == names
    captioned_tar(folder / "00000.tar", range(1))
    captioned_tar(folder / ".train.x" / "0.tar", range(1))  # being written
    assert [str(s.relative_to(folder)) for s in all_shards(folder)] == ["00000.tar", *names]
    for wrong in (folder / "nothing", tmp_path_factory.mktemp("empty")):
        with pytest.raises(UserError, match="scripts/prepare_data.py"):
            all_shards(wrong)


def test_a_training_that_reads_texts_has_their_manifest_checked_too(folder, clip):
    file = texts_file(folder / "train" / "0.tar", clip.fingerprint())
    ((_, encoded, _),) = encoded_shards([(folder / "train" / "0.tar", [Captions()])], clip)
    write_beside(folder / "train" / "0.tar", file, *encoded[Captions()], "float32")
    write_manifest(folder, clip.identity, clip.fingerprint(), Captions)
    check_manifest(folder, clip, texts=True)
    file.write_bytes(file.read_bytes()[:-1])
    check_manifest(folder, clip)
    with pytest.raises(UserError, match="text.json does not fit the data: .*0.*text.safetensors is another file"):
        check_manifest(folder, clip, texts=True)
