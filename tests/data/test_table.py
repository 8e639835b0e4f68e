import random
from itertools import islice
from pathlib import Path

import pytest
import torch

from unclip.data.captions import ClassCaptions
from unclip.data.shards import find_shards, read_samples
from unclip.data.skipped import Skipped
from unclip.data.table import Table, TableBatches, decode_sample, load_table, make_batch
from unclip.errors import UserError

from .pictures import Lines, encoded, picture, png, write_tar

CIFAR = next(Path(__file__).parents[3].glob("*/data/cifar10-test"), None)  # beside the checkout, if anywhere


def table(count, labelled=False):
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    images[..., 1] = 100 + images[..., 0]  # so that the mirror image differs
    embed = torch.stack([torch.arange(count), -torch.arange(count) - 1], dim=1)[..., None].half()
    texts = {"captions": [[f"one {n}", f"other {n}"] for n in range(count)]}
    if labelled:
        names = ClassCaptions(names=[["dog"], ["cat"]], nouns=[[], []])
        texts = {"labels": torch.arange(count) % 2, "class_captions": names}
    return Table(images, [str(n) for n in range(count)], ["0.tar"] * count, image_embed=embed, **texts)


def keys_of(batches, steps):
    return [key for step in steps for key in batches.at(step)["key"]]


def test_an_epoch_has_every_sample_once():
    batches = TableBatches(table(21), batch_size=4, seed=0)
    keys = keys_of(batches, range(21))  # four epochs: 84 samples
    for epoch in range(4):
        assert sorted(keys[21 * epoch : 21 * (epoch + 1)], key=int) == [str(n) for n in range(21)]
    assert keys[:21] != keys[21:42]


def test_ranks_share_every_global_batch():
    whole = TableBatches(table(21), batch_size=6, seed=3)
    parts = [TableBatches(table(21), batch_size=2, seed=3, rank=r, world=3) for r in range(3)]
    for step in range(8):
        assert whole.at(step)["key"] == [key for part in parts for key in part.at(step)["key"]]


def test_order_depends_on_seed_and_step_alone():
    first, again, other = (TableBatches(table(21), batch_size=4, seed=s) for s in (5, 5, 6))
    straight = [first.at(step) for step in range(12)]
    for step in (11, 2, 7):  # as after a resume, in any order
        batch = again.at(step)
        assert batch["key"] == straight[step]["key"] and batch["caption"] == straight[step]["caption"]
        assert torch.equal(batch["image"], straight[step]["image"])
    assert keys_of(first, range(5)) != keys_of(other, range(5))


def test_a_mirrored_picture_has_the_mirrored_embedding():
    seen = set()
    for step in range(10):
        batch = TableBatches(table(21), batch_size=8, seed=0).at(step)
        for key, image, embed in zip(batch["key"], batch["image"], batch["image_embed"]):
            mirrored = bool(image[0, 0, 0] > image[0, 0, 1])
            seen.add(mirrored)
            assert embed.item() == (-int(key) - 1 if mirrored else int(key))
    assert seen == {True, False}
    upright = TableBatches(table(21), batch_size=20, seed=0, mirror=False).at(0)
    assert (upright["image_embed"] >= 0).all()


def test_batches_in_memory_have_no_state_but_the_step():
    straight, resumed = (TableBatches(table(21), batch_size=4, seed=5) for _ in range(2))
    for step in range(7):
        straight.at(step)
    resumed.load(straight.state())
    assert straight.state() == {} and resumed.at(7)["key"] == straight.at(7)["key"]


def test_a_batch_larger_than_the_table():
    assert sorted(TableBatches(table(2), batch_size=6, seed=0).at(0)["key"]) == ["0"] * 3 + ["1"] * 3


def test_captions_belong_to_their_pictures():
    batch = TableBatches(table(9), batch_size=9, seed=0).at(0)
    assert all(caption.split()[1] == key for caption, key in zip(batch["caption"], batch["key"]))
    assert {c.split()[0] for c in batch["caption"]} == {"one", "other"}
    assert all(caption in known and len(known) == 2 for caption, known in zip(batch["concept"], batch["known"]))
    labelled = TableBatches(table(9, labelled=True), batch_size=9, seed=0).at(0)
    assert labelled["concept"] == [("dog", "cat")[int(k) % 2] for k in labelled["key"]]
    assert labelled["label"].tolist() == [int(k) % 2 for k in labelled["key"]]
    assert labelled["known"] == [[c] for c in labelled["concept"]] and labelled["said"] == [{}] * 9
    assert labelled["caption"] == [f"a photo of a {c}" for c in labelled["concept"]]


def test_take_keeps_the_columns_together():
    part = table(9).take(torch.tensor([4, 1]))
    batch = make_batch(part, torch.arange(2), torch.zeros(2, dtype=torch.bool), random.Random(0))
    assert batch["key"] == ["4", "1"] and batch["image_embed"].flatten().tolist() == [4, 1]
    assert batch["image"][:, 0, 0, 0].tolist() == [4, 1] and [c[-1] for c in batch["caption"]] == ["4", "1"]
    assert table(9, labelled=True).take(torch.tensor([4, 1])).labels.tolist() == [0, 1]


def test_img2dataset_output_is_read_as_it_is(tmp_path):
    files = [
        ("000000000.jpg", encoded(picture(1), "JPEG")), ("000000000.txt", b"a dog\n\n  a brown dog \n"),
        ("000000000.json", b'{"caption": "a dog"}'),
        ("000000001.jpg", encoded(picture(2), "JPEG")), ("000000001.txt", b""), ("000000001.json", b"{}"),
        ("000000003.webp", encoded(picture(3), "WEBP")), ("000000003.txt", "Käfer".encode()),
    ]  # fmt: skip
    write_tar(tmp_path / "00000.tar", files)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "00000_stats.json").write_text("{}")
    lines = Lines()
    read = load_table(tmp_path, "train", 4, lines)
    assert read.keys == ["000000000", "000000003"] and read.images.shape == (2, 3, 4, 4)
    assert read.captions == [["a dog", "a brown dog"], ["Käfer"]]
    assert read.words() == ["a", "brown", "dog", "käfer"]
    assert read.sides.tolist() == [8, 8] and read.take(torch.tensor([1])).sides.tolist() == [8]
    reason = "1 no caption (first: 000000001 in 00000.tar: its caption is empty)"
    assert lines == [f"skipped 1 corrupt sample(s) or shard end(s): {reason}"]


def test_corrupt_samples_are_skipped_and_counted(tmp_path):
    (tmp_path / "classnames.txt").write_text("dog\ncat\n")
    whole = png(1)
    files = [
        ("0.png", whole), ("0.cls", b"1"), ("1.png", b"no picture"), ("1.cls", b"0"), ("2.png", whole[:60]), ("2.cls", b"0"),
        ("3.png", whole), ("4.cls", b"0"), ("5.png", whole), ("5.cls", b"2"), ("6.png", whole), ("6.cls", b"x"),
        ("7.png", whole), ("7.cls", b"0"),
    ]  # fmt: skip
    write_tar(tmp_path / "train" / "0.tar", files)
    lines = Lines()
    read = load_table(tmp_path, "train", 8, lines)
    assert read.keys == ["0", "7"] and read.labels.tolist() == [1, 0]
    assert len(lines) == 1 and lines[0].startswith("skipped 6 corrupt")


def telling(path, *readings):
    """A labelled set whose pictures come with readings."""
    ClassCaptions([["dog"]], [[]], reading_share=1.0).save(path.parent.parent / "captions.json")
    (path.parent.parent / "classnames.txt").write_text("dog\n")
    files = [(f"{n}.{e}", c) for n, r in enumerate(readings) for e, c in (("png", png(n)), ("cls", b"0"), ("json", r))]
    write_tar(path, files)


def test_readings_turn_with_the_picture(tmp_path):
    (tmp_path / "train").mkdir()
    telling(tmp_path / "train" / "0.tar", b'{"readings": {"place": "left", "colour": "red"}}')
    read = load_table(tmp_path, "train", 8)
    assert read.readings == [{"place": "left", "colour": "red"}] and read.take(torch.tensor([0])).readings == read.readings
    rows = torch.zeros(200, dtype=torch.long)
    for flip, place, other in ((False, "left", "right"), (True, "right", "left")):
        said = " ".join(make_batch(read, rows, torch.full((200,), flip), random.Random(0))["caption"])
        assert f"on the {place}" in said and other not in said and "a red dog" in said


def test_readings_that_are_none_make_a_sample_corrupt(tmp_path):
    (tmp_path / "train").mkdir()
    telling(tmp_path / "train" / "0.tar", b'{"readings": {"colour": "mauve"}}', b"{", b'{"readings": {}}', b'{"readings": {"x": "red"}}')
    lines = Lines()
    assert load_table(tmp_path, "train", 8, lines).keys == ["2"]
    assert "skipped 3" in lines[0] and "colour: mauve is unknown" in lines[0]


def test_other_sets_json_is_passed_over(tmp_path):
    (tmp_path / "classnames.txt").write_text("dog\n")
    write_tar(tmp_path / "train" / "0.tar", [("0.png", png(0)), ("0.cls", b"0"), ("0.json", b"no json")])
    assert load_table(tmp_path, "train", 8).readings == [{}]


def test_nothing_readable(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.png", b"no"), ("0.txt", b"a dog")])
    with pytest.raises(UserError, match="nothing readable"):
        load_table(tmp_path, "train", 8, Lines())


def test_clip_benchmark_layout(tmp_path):
    (tmp_path / "classnames.txt").write_text("airplane\ncat\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    files = [("s0.jpg", encoded(grey(), "JPEG")), ("s0.cls", b"1"), ("s1.jpg", encoded(picture(2), "JPEG")), ("s1.cls", b"0")]
    write_tar(tmp_path / "test" / "0.tar", files)
    (tmp_path / "test" / "nshards.txt").write_text("1")
    read = load_table(tmp_path, "test", 8)
    assert read.labels.tolist() == [1, 0] and read.class_captions.names == [["airplane"], ["cat"]]
    assert read.images[0].float().std(dim=0).max() == 0  # grey: three equal channels
    with pytest.raises(UserError, match="no split 'train': it has test"):
        load_table(tmp_path, "train", 8)


def grey():
    return picture(1).convert("L")


@pytest.mark.skipif(CIFAR is None, reason="no cifar10-test beside the checkout")
def test_cifar_10_in_clip_benchmarks_layout():
    names = ClassCaptions.of_folder(CIFAR)
    assert len(names.names) == 10
    for sample in islice(read_samples(find_shards(CIFAR, "test"), Skipped()), 8):
        image, label, *_ = decode_sample(sample, 32, names)
        assert image.shape == (3, 32, 32) and 0 <= label < 10 and image.float().std() > 5


def test_without_captions_the_rest_is_the_same():
    for labelled in (False, True):
        whole, bare = (TableBatches(table(21, labelled), batch_size=8, seed=0, captions=c) for c in (True, False))
        for step in (0, 5):
            one, other = whole.at(step), bare.at(step)
            assert one.keys() - other.keys() == {"caption", "concept", "said", "known", "readings"}
            assert one["key"] == other["key"]
            assert all(torch.equal(one[k], other[k]) for k in other.keys() - {"key"}) and "image" in other
