import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from unclip.data.embeddings import ShardEmbeddings, attach_embeddings, embed_shard, read_embeddings
from unclip.data.images import to_float
from unclip.data.table import load_table
from unclip.errors import UserError

from .clips import RampClip
from .pictures import Lines, captioned_tar, encoded, png, write_tar


@pytest.fixture
def folder(tmp_path):
    captioned_tar(tmp_path / "0.tar", range(3))
    captioned_tar(tmp_path / "1.tar", range(2, 5))  # the key 0002 stands in both
    return tmp_path


def test_embeddings_are_those_of_the_picture_and_its_mirror_image(folder):
    table, clip = load_table(folder, "train", 8), RampClip()
    attach_embeddings(table, clip)
    pixels = to_float(table.images)
    assert table.image_embed.shape == (6, 2, 3) and table.image_embed.dtype == torch.float16
    torch.testing.assert_close(table.image_embed[:, 0].float(), clip.encode_image(pixels), atol=2e-3, rtol=0)
    torch.testing.assert_close(table.image_embed[:, 1].float(), clip.encode_image(pixels.flip(-1)), atol=2e-3, rtol=0)


def test_they_are_computed_once(folder):
    first, second, clip = load_table(folder, "train", 8), load_table(folder, "train", 8), RampClip()
    attach_embeddings(first, clip)
    calls = clip.calls
    attach_embeddings(second, clip)
    assert clip.calls == calls and torch.equal(first.image_embed, second.image_embed)


def test_each_row_gets_the_embedding_of_its_own_shard_and_key(folder):
    """Whatever the order of a table, and though two shards have a key in common."""
    for number in (0, 1):
        picture = 10 * torch.arange(3) + 100 * number
        put(folder / f"{number}.tar", ["0002", "0003", "0004"], picture[:, None, None].expand(3, 2, 3).half())
    table = load_table(folder, "train", 8)
    table = table.take(torch.tensor([k for k, key in enumerate(table.keys) if key in ("0002", "0003", "0004")])).take(
        torch.tensor([3, 0, 2, 1, 0])
    )
    attach_embeddings(table, RampClip())
    worth = {("0", "0002"): 0, ("1", "0002"): 100, ("1", "0003"): 110, ("1", "0004"): 120}
    expected = [worth[Path(shard).stem, key] for shard, key in zip(table.shards, table.keys)]
    assert len(set(expected)) == 4 and table.image_embed[:, 1, 2].tolist() == expected


def put(shard, keys, embeds):
    """Put a file with these keys and embeddings beside a shard."""
    save_file({"image_embed": embeds.contiguous()}, shard.with_suffix(".ramp.safetensors"), metadata={"keys": json.dumps(keys)})


def test_a_picture_that_the_file_lacks_is_said(folder):
    put(folder / "1.tar", ["0002", "0003"], torch.zeros(2, 2, 3).half())
    with pytest.raises(UserError, match=r"1.ramp.safetensors has no embedding of '0004' in .*1.tar: remove it"):
        attach_embeddings(load_table(folder, "train", 8), RampClip())


def test_rows_of_some_keys():
    embeds = ShardEmbeddings(["b", "a", "c"], torch.arange(12).half().view(3, 2, 2))
    assert embeds.of(["c", "b", "c"]).tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]], [[8, 9], [10, 11]]]
    assert list(embeds) == ["b", "a", "c"] and "d" not in embeds and embeds["a"].tolist() == [[4, 5], [6, 7]]
    with pytest.raises(KeyError):
        embeds.of(["a", "d"])


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="reads Linux's /proc")
def test_a_file_is_mapped_and_what_a_table_gets_is_a_copy(folder):
    table = load_table(folder, "train", 8)
    attach_embeddings(table, RampClip())
    file = str(folder / "0.ramp.safetensors")
    assert file not in Path("/proc/self/maps").read_text()
    known = read_embeddings(folder / "0.tar", "ramp")
    assert file in Path("/proc/self/maps").read_text()
    known.of(["0000"]).zero_()
    assert torch.equal(known["0000"], table.image_embed[0]) and known["0000"].any()


@pytest.mark.parametrize("harm", ["cut off", "a row too few", "another shard"])
def test_a_file_that_does_not_fit_is_made_anew(folder, harm):
    attach_embeddings(load_table(folder, "train", 8), RampClip())
    file = folder / "0.ramp.safetensors"
    if harm == "cut off":
        file.write_bytes(file.read_bytes()[:50])
    elif harm == "a row too few":
        put(folder / "0.tar", ["0000", "0001", "0002"], load_file(file)["image_embed"][:2])
    else:
        captioned_tar(folder / "0.tar", range(50, 60))
    assert read_embeddings(folder / "0.tar", "ramp") is None
    table, clip = load_table(folder, "train", 8), RampClip()
    attach_embeddings(table, clip)
    assert clip.calls == 2  # of this shard alone, both views
    torch.testing.assert_close(table.image_embed[:, 0, 2].float(), to_float(table.images[:, 1, 0, 0]), atol=2e-3, rtol=0)


def test_other_pictures_of_the_same_keys_and_size_are_embedded_anew(folder):
    attach_embeddings(load_table(folder, "train", 8), RampClip())
    before = (folder / "0.tar").stat().st_size
    files = [[(f"{n:04d}.png", png(9 * n)), (f"{n:04d}.txt", b"picture 0")] for n in range(3)]
    write_tar(folder / "0.tar", sum(files, []))
    assert (folder / "0.tar").stat().st_size == before and read_embeddings(folder / "0.tar", "ramp") is not None
    for calls in (2, 0):  # of this shard alone, both views; then its file is right again
        table, clip = load_table(folder, "train", 8), RampClip()
        attach_embeddings(table, clip)
        expected = to_float(table.images[:, 1, 0, 0])
        torch.testing.assert_close(table.image_embed[:, 0, 2].float(), expected, atol=2e-3, rtol=0)
        assert clip.calls == calls


def test_a_file_without_checksums_holds(folder):
    """As earlier versions wrote them."""
    put(folder / "0.tar", ["0000", "0001", "0002"], torch.full((3, 2, 3), 5.0).half())
    table, clip = load_table(folder, "train", 8), RampClip()
    attach_embeddings(table, clip)
    assert clip.calls == 2 and (table.image_embed[:3] == 5).all() and (table.image_embed[3:] != 5).all()


def test_samples_that_are_skipped_do_not_shift_the_others(tmp_path):
    write_tar(tmp_path / "0.tar", [
        ("a.png", b"broken"), ("a.txt", b"x"), ("b.png", png(9)), ("b.txt", b""), ("c.png", png(77)), ("c.txt", b"x")
    ])  # fmt: skip
    table = load_table(tmp_path, "train", 8, Lines())
    attach_embeddings(table, RampClip())
    assert table.keys == ["c"]
    assert table.image_embed[0, 0, 2].item() == pytest.approx(77 / 127.5 - 1, abs=2e-3)
    assert set(read_embeddings(tmp_path / "0.tar", "ramp")) == {"b", "c"}


def test_a_wide_picture_is_squashed_where_the_clip_was_trained_so(tmp_path):
    wide = Image.new("RGB", (24, 8))
    wide.paste("white", (0, 0, 8, 8))  # the left third, which a crop to the centre leaves out
    shard, clip = write_tar(tmp_path / "0.tar", [("a.png", encoded(wide)), ("a.txt", b"x")]), RampClip()
    assert embed_shard(shard, clip)[1]["image_embed"][0, 0].tolist() == [-1, -1, -1]
    clip.squash = True
    (left, right, whole), (mirrored, *_) = embed_shard(shard, clip)[1]["image_embed"][0].tolist()
    assert left == pytest.approx(1 / 3, abs=0.05) and right == pytest.approx(-1, abs=0.05)  # 2.67 of 4 columns white
    assert mirrored == right


def test_a_disk_that_takes_nothing_is_said_once_a_shard(folder, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unclip.data.beside.save_file", full)
    table, lines = load_table(folder, "train", 8), Lines()
    attach_embeddings(table, RampClip(), lines)
    assert table.image_embed is not None and len(lines) == 2 and "No space left" in lines[0]
    assert not list(folder.glob("*.safetensors")) and not list(folder.glob(".*"))
