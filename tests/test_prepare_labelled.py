"""One photograph a class of ImageNet, and labelled sets joined into one."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from data.pictures import png, write_tar

from unclip.data.captions import ClassCaptions
from unclip.data.imagenet_samples import imagenet_samples, within
from unclip.data.join import join
from unclip.data.shards import find_shards
from unclip.data.table import load_table
from unclip.errors import UserError


def quiet(line):
    pass


@pytest.fixture
def collection(tmp_path):
    """Five of the collection's files, one of them of a class that Tiny ImageNet has, and what else a repository holds."""
    files = ["n02099601_golden_retriever.JPEG", "n02389026_sorrel.jpg", "n02690373_airliner.JPEG", "n03954731_plane.JPEG",
             "n03095699_container_ship.JPEG"]  # fmt: skip
    path = tmp_path / "samples.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("imagenet-sample-images-master/README.md", "one a class")
        for number, name in enumerate(files):
            archive.writestr(f"imagenet-sample-images-master/{name}", png(number))
    return path


def test_the_collections_words(collection, tmp_path):
    imagenet_samples(collection, tmp_path / "out", say=quiet)
    captions = ClassCaptions.of_folder(tmp_path / "out")
    assert captions.names[1:] == [["sorrel horse"], ["airliner"], ["container ship"], ["carpenter's plane"]]
    assert "golden retriever" in captions.names[0] and "dog" in captions.nouns[0]
    assert captions.nouns[1:] == [["animal", "horse"], ["airplane"], ["ship"], []]
    train, test = (load_table(tmp_path / "out", split, 8) for split in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 2, 3, 4], [0])  # the first of every twenty


@pytest.mark.parametrize("wnid, is_dog", [("n02085619", False), ("n02085620", True), ("n02099601", True), ("n02113978", True),
                                          ("n02114367", False), ("n02000000", True)])  # fmt: skip
def test_a_range_of_ids_has_its_ends_in_it(wnid, is_dog):
    assert within(wnid, ["n02085620-n02113978", "n02000000"]) == is_dog


def test_what_is_no_such_collection(tmp_path):
    with pytest.raises(UserError, match="none.zip is not a whole zip"):
        imagenet_samples(tmp_path / "none.zip", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("holiday.jpg", png(0))
    with pytest.raises(UserError, match="other.zip has no pictures named as"):
        imagenet_samples(tmp_path / "other.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def labelled(folder, names, nouns, labels, **options):
    """A labelled set of pictures 0, 1, ...; the first of each class is also its test picture."""
    for split, chosen in (("train", labels), ("test", list(dict.fromkeys(labels)))):
        files = [(f"{n}.{e}", c) for n, k in enumerate(chosen) for e, c in (("png", png(n)), ("cls", b"%d" % k))]
        write_tar(folder / split / "0.tar", files)
    (folder / "classnames.txt").write_text("\n".join(n[0] for n in names) + "\n")
    (folder / "captions.json").write_text(json.dumps({"names": names, "nouns": nouns, **options}))
    return folder


@pytest.fixture
def two(tmp_path):
    first = labelled(tmp_path / "a", [["poodle"], ["ox"]], [["dog"], []], [0, 1, 0], templates=["a {}"], reading_share=0.5)
    second = labelled(tmp_path / "b", [["liner"], ["ox", "bull"]], [["ship"], ["cattle", "bull"]], [1, 0], templates=["{}"])
    return first, second


def test_joined_classes_are_those_of_both(two, tmp_path):
    join(two, tmp_path / "out", say=quiet)
    captions = ClassCaptions.of_folder(tmp_path / "out")
    assert captions.names == [["poodle"], ["ox", "bull"], ["liner"]]
    assert captions.nouns == [["dog"], ["cattle"], ["ship"]]  # a name is not a noun as well
    assert (captions.templates, captions.reading_share) == (["a {}", "{}"], 0.5)
    train = load_table(tmp_path / "out", "train", 8)
    assert train.labels.tolist() == [0, 1, 0, 1, 2] and len(set(train.keys)) == 5
    assert load_table(tmp_path / "out", "test", 8).labels.tolist() == [0, 1, 1, 2]
    for number in (0, 1):  # the pictures are those of the two sets, in order
        single = load_table(two[number], "train", 8).images
        assert train.images[3 * number :][: len(single)].equal(single)


def test_a_set_named_twice_is_in_it_twice(two, tmp_path):
    first, second = two
    join([first, second, second], tmp_path / "out", say=quiet)
    assert load_table(tmp_path / "out", "train", 8).labels.tolist() == [0, 1, 0, 1, 2, 1, 2]
    assert len(load_table(tmp_path / "out", "test", 8)) == 4


def test_what_cannot_be_joined(two, tmp_path):
    first, second = two
    with pytest.raises(UserError, match="is one of the folders to join"):
        join(two, tmp_path / "a")
    write_tar(tmp_path / "captioned" / "train" / "0.tar", [("0.png", png(0)), ("0.txt", b"a dog")])
    with pytest.raises(UserError, match="captioned is not labelled"):
        join([first, tmp_path / "captioned"], tmp_path / "out")
    with pytest.raises(UserError, match="no data folder .*nowhere"):
        join([first, tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists() and find_shards(first, "train")


def test_what_is_no_reading_stays_behind(two, tmp_path):
    """The first set tells readings; the second has .json files of another kind, which would pass for damaged ones."""
    first, _ = two
    files = [(f"0.{e}", c) for e, c in (("png", png(7)), ("cls", b"0"), ("json", b'{"url": "there"}'))]
    other = labelled(tmp_path / "c", [["kite"]], [[]], [0])
    write_tar(other / "train" / "0.tar", files)
    join([first, other], tmp_path / "out", say=quiet)
    assert load_table(tmp_path / "out", "train", 8).labels.tolist() == [0, 1, 0, 2]


def test_wrong_labels_are_skipped_and_counted(two, tmp_path):
    first, second = two
    write_tar(second / "train" / "0.tar", [(f"{n}.{e}", c) for n, k in enumerate((b"-1", b"7", b"x", b"0")) for e, c in (("png", png(n)), ("cls", k))])
    lines = []
    join([first, second], tmp_path / "out", say=lines.append)
    assert load_table(tmp_path / "out", "train", 8).labels.tolist() == [0, 1, 0, 2]
    assert lines[-1].startswith("skipped 3 corrupt")


def test_an_old_validation_split_is_not_left_with_new_labels(two, tmp_path):
    join(two, tmp_path / "out", say=quiet)
    for folder in two:
        shutil.rmtree(folder / "test")
    with pytest.raises(UserError, match="has a split 'test', and what is joined has none"):
        join(two, tmp_path / "out", say=quiet)
    join(two, tmp_path / "new", say=quiet)
    assert not (tmp_path / "new" / "test").exists()


def test_a_damaged_picture_of_the_collection_is_skipped(collection, tmp_path):
    content = bytearray(collection.read_bytes())
    with zipfile.ZipFile(collection) as archive:
        entry = archive.getinfo("imagenet-sample-images-master/n02389026_sorrel.jpg")
    start = entry.header_offset + 30 + len(entry.filename)
    content[start + 20] ^= 255
    collection.write_bytes(content)
    lines = []
    imagenet_samples(collection, tmp_path / "out", say=lines.append)
    assert lines[0].startswith("train: 3 pictures of 5 classes") and lines[-1].startswith("skipped 1 corrupt")


def test_a_class_without_a_name_is_damage(two):
    first, _ = two
    (first / "captions.json").write_text(json.dumps({"names": [["poodle"], []], "nouns": [[], []]}))
    with pytest.raises(UserError, match="captions.json is damaged"):
        ClassCaptions.of_folder(first)


@pytest.mark.parametrize("name", ["../../../n02389026_sorrel.jpg", "/n02389026_sorrel.jpg", "..\\n02389026_sorrel.jpg"])
def test_names_in_a_zip_are_no_paths(collection, tmp_path, name):
    with zipfile.ZipFile(collection, "a") as archive:
        archive.writestr(name, png(9))
    before = set(tmp_path.rglob("*"))
    imagenet_samples(collection, tmp_path / "deep" / "out", say=quiet)
    made = set(tmp_path.rglob("*")) - before
    assert made and all(path.is_relative_to(tmp_path / "deep") for path in made)
    assert not [p for p in Path("/").glob("n02389026*")]


def test_what_unpacks_to_too_much_is_skipped(collection, tmp_path, monkeypatch):
    """By what the zip says of the member; no more than that is unpacked."""
    with zipfile.ZipFile(collection, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("n04000000_thing.jpg", bytes(3_000_000))
    assert collection.stat().st_size < 100_000
    monkeypatch.setattr("unclip.data.zips.MAX_MEMBER", 1_000_000)
    lines = []
    imagenet_samples(collection, tmp_path / "out", say=lines.append)
    assert "skipped 1 corrupt" in lines[-1] and "3,000,000 bytes, 1,000,000 at most" in lines[-1]
