"""Bad samples of every kind: skipped, counted, reported, until they are too many."""

import struct
import zlib

import pytest
from PIL import Image

from unclip.data.captions import ClassCaptions
from unclip.data.embeddings import shard_embeddings
from unclip.data.shards import find_shards
from unclip.data.skipped import ENOUGH, Bad, Skipped
from unclip.data.stream import StreamBatches
from unclip.data.table import MIN_SIDE, decode_picture, load_shards
from unclip.errors import UserError

from .clips import RampClip
from .pictures import Lines, captioned_tar, encoded, picture, png, write_tar


def claiming(width, height):
    """A PNG that says it has so many pixels, and has none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


JPEG = encoded(Image.effect_noise((64, 64), 99), "JPEG")
PICTURES = {
    "truncated picture": [png(1)[:60], JPEG[: len(JPEG) // 2]],
    "not a picture": [b"no picture", b"", png(1)[:10], b"<html></html>"],
    "too small": [png(1, 1), encoded(picture(1, 64).resize((64, MIN_SIDE - 1)))],
    "too large": [claiming(20_000, 20_000), claiming(12_000, 12_000), claiming(100_000, 9_000)],
}
ONE_OF_EACH = {
    **{kind: [("png", contents[0]), ("txt", b"x")] for kind, contents in PICTURES.items()},
    "no picture": [("txt", b"x"), ("json", b"{}")],
    "no caption": [("png", png(1)), ("json", b"{}")],
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind, content", [(kind, c) for kind, contents in PICTURES.items() for c in contents])
def test_why_a_picture_is_refused(kind, content, monkeypatch):
    if kind != "truncated picture":  # it is not unpacked
        monkeypatch.setattr("unclip.data.table.decode_opened", None)
    with pytest.raises(Bad) as error:
        decode_picture(content, 8)
    assert error.value.kind == kind and "\n" not in str(error.value) and "object at" not in str(error.value)


def test_a_picture_of_the_smallest_side_is_read():
    image, side = decode_picture(png(5, MIN_SIDE), 8)
    assert image.shape == (3, 8, 8) and side == MIN_SIDE and (image[1] == 5).all()


@pytest.fixture
def spoilt(tmp_path):
    """Four shards of a hundred samples, of which one of each kind is bad; one that is cut off; one that is a folder."""
    for shard in range(4):
        files = []
        for n in range(100 - len(ONE_OF_EACH) - 1):
            files += [(f"{shard}-{n}.png", png(n)), (f"{shard}-{n}.txt", b"%d" % n)]
        for kind, content in ONE_OF_EACH.items():
            files[20:20] = [(f"{shard}-{kind}.{extension}", c) for extension, c in content]
        files += files[:2]
        write_tar(tmp_path / f"{shard}.tar", files)
    cut = captioned_tar(tmp_path / "4.tar", range(10))
    cut.write_bytes(cut.read_bytes()[: 4 * 6 * 512 + 512 + 20])  # into the fifth picture
    (tmp_path / "5.tar").mkdir()
    return tmp_path


EXPECTED = {**dict.fromkeys(ONE_OF_EACH, 4), "duplicate key": 4, "shard cut off": 1, "source": 1}


def test_one_of_each_kind_is_counted_in_memory(spoilt):
    lines = Lines()
    table = load_shards(find_shards(spoilt, "train"), 8, say=lines)
    assert len(table) == 4 * 93 + 4 and len(lines) == 1 and lines[0].startswith("skipped 30 corrupt")
    for kind, number in EXPECTED.items():
        assert f"{number} {kind} (first: " in lines[0]
    assert "0-too small in 0.tar: it has 1x1 pixels" in lines[0] and "4.tar: unexpected end of data" in lines[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_of_each_kind_is_counted_as_it_streams_on(spoilt, workers):
    """All workers' together: a bad sample is counted once in every epoch."""
    lines = Lines()
    batches, epochs = StreamBatches(find_shards(spoilt, "train"), 8, 8, 0, workers=workers, say=lines), 4
    for step in range(epochs * (4 * 93 + 4) // 8):
        assert not [k for k in batches.at(step)["key"] if k.split("-")[-1] in EXPECTED]
    for kind, number in EXPECTED.items():  # the readers have not come to the same place
        assert (epochs - 1) * number - 2 <= batches.skipped.counts[kind] <= (epochs + 1) * number
    assert batches.skipped.counts.keys() == EXPECTED.keys() and batches.good == epochs * (4 * 93 + 4)
    assert 1 < len(lines) < 13  # one when the number of all, or of shards, has doubled


def test_a_caption_may_miss_where_none_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("unclip.data.stream.PATIENCE", 50)
    write_tar(tmp_path / "0.tar", [("0.png", png(0)), ("1.png", png(1)), ("1.txt", b"\n")])
    batch = StreamBatches([tmp_path / "0.tar"], 8, 2, 0, workers=0, captions=False).at(0)
    assert sorted(batch["key"]) == ["0", "1"]
    with pytest.raises(UserError, match="nothing readable"):
        StreamBatches([tmp_path / "0.tar"], 8, 2, 0, workers=0).at(0)


def test_a_label_and_an_embedding_may_not(tmp_path):
    labels = [(f"{n}.{e}", c) for n, label in enumerate((b"0", b"x", b"7", None)) for e, c in (("png", png(n)), ("cls", label))]
    write_tar(tmp_path / "0.tar", [(name, content) for name, content in labels if content is not None])
    names, skipped = ClassCaptions(names=[["dog"]], nouns=[[]]), Lines()
    assert load_shards([tmp_path / "0.tar"], 8, names, skipped).keys == ["0"]
    assert "3 no label" in skipped[0]
    captioned_tar(tmp_path / "1.tar", range(9))
    shard_embeddings(tmp_path / "1.tar", RampClip(), "ramp")
    write_tar(tmp_path / "1.tar", [(f"{n:04d}.{e}", c) for n in (8, 9) for e, c in (("png", png(n)), ("txt", b"x"))])
    made = next(tmp_path.glob("1.*.safetensors"))
    fake_size(made, (tmp_path / "1.tar").stat().st_size)
    batches = StreamBatches([tmp_path / "1.tar"], 8, 2, 0, workers=0, fingerprint="ramp", say=Lines())
    assert batches.at(0)["key"] == ["0008"] * 2 and batches.skipped.counts.keys() == {"no embedding"}


def fake_size(file, size):
    """Let a file of embeddings say that it is of a shard of another size."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as read:
        tensors, metadata = {"image_embed": read.get_tensor("image_embed").clone()}, read.metadata()
    save_file(tensors, file, metadata={**metadata, "shard_bytes": str(size)})


# ---- too many --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("good, bad, ends", [
    (ENOUGH - 101, 100, False), (ENOUGH - 101, 101, True), (9 * ENOUGH, ENOUGH, False), (9 * ENOUGH, ENOUGH + 1, True),
    (0, ENOUGH - 1, False), (0, ENOUGH, True), (ENOUGH, 0, False),
])  # fmt: skip
def test_too_many_are_more_than_the_share_of_enough(good, bad, ends):
    skipped = Skipped()
    skipped.add({"too small": bad}, {"too small": "x in 0.tar: tiny"})
    if not ends:
        return skipped.check(good, 0.1, 1)
    with pytest.raises(UserError, match=rf"^{bad} of {good + bad} samples .* data.max_bad=0.1 .*: {bad} too small \(first: x"):
        skipped.check(good, 0.1, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_when_too_many_are_bad(tmp_path, workers, monkeypatch):
    monkeypatch.setattr("unclip.data.skipped.ENOUGH", 100)
    for shard in range(4):
        files = [(f"{n}.{e}", b"x" if e == "txt" or n % 5 == 0 else png(n)) for n in range(20) for e in ("png", "txt")]
        write_tar(tmp_path / f"{shard}.tar", files)
    shards = find_shards(tmp_path, "train")
    tolerant = StreamBatches(shards, 8, 4, 0, workers=workers, max_bad=0.5, say=Lines())
    for step in range(60):
        tolerant.at(step)
    strict, steps = StreamBatches(shards, 8, 4, 0, workers=workers, max_bad=0.1, say=Lines()), 0
    with pytest.raises(UserError, match="not a picture") as error:
        for steps in range(60):
            strict.at(steps)
    assert "\n" not in str(error.value) and 15 < steps < 30  # 80 to 100 good ones, 20 bad
    monkeypatch.setattr("unclip.data.skipped.ENOUGH", 50)
    assert len(load_shards(shards, 8, say=Lines(), max_bad=0.5)) == 64
    with pytest.raises(UserError, match="16 of 80 samples are bad"):
        load_shards(shards, 8, say=Lines(), max_bad=0.1)


@pytest.mark.parametrize("lost, whole, of, ends", [
    (1, 2, 3, False), (2, 1, 3, True), (1, 9, 10, False), (2, 0, 10, True), (10, 0, 1000, False), (11, 0, 1000, True),
    (10, 90, 1000, False), (11, 89, 1000, True), (20, 180, 1000, False), (21, 179, 1000, True), (1, 0, 1, False),
])  # fmt: skip
def test_too_many_shards_are_more_than_the_share_of_a_hundred_or_all(lost, whole, of, ends):
    """Among a million good samples; as long as there are others, they may turn out to be whole."""
    skipped = Skipped()
    for n in range(whole):
        skipped.over(f"whole {n}", False)
    for n in range(lost):
        skipped(Bad("source", "HTTP Error 404"), f"{n}.tar")
        skipped.over(f"lost {n}", True)
    if not ends:
        return skipped.check(1_000_000, 0.1, of)
    with pytest.raises(UserError, match=rf"^{lost} of .* {lost + whole} shards .*max_bad=0.1 .*: {lost} source \(first: 0"):
        skipped.check(1_000_000, 0.1, of)


def test_a_shard_counts_once_as_it_was_found_last_and_the_latest_count(monkeypatch):
    monkeypatch.setattr("unclip.data.skipped.LATEST", 20)
    skipped, later = Skipped(), Skipped()
    for epoch in range(5):  # the first one is lost in each: the share is a tenth, never more
        for n in range(10):
            skipped.over(n, n == 0)
            skipped.check(0, 0.1, 10)
    skipped.over(1, True)
    with pytest.raises(UserError, match="2 of the last 10 shards"):
        skipped.check(0, 0.1, 10)
    later.over(1, False)  # it is there again
    skipped.join(later)
    skipped.check(0, 0.1, 10)
    for n in range(100, 200):
        later.over(n, False)
    skipped.join(later)
    assert len(skipped.shards) == 20 and not any(skipped.shards.values())


def cut_off(shard, samples):
    """A shard that breaks off behind so many of its samples."""
    captioned_tar(shard, range(20))
    shard.write_bytes(shard.read_bytes()[: 6 * samples * 512 + 512 + 20])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("samples", [0, 9])
def test_a_run_ends_when_too_many_shards_are_lost_though_all_samples_are_good(tmp_path, workers, samples):
    for shard in range(12):
        captioned_tar(tmp_path / f"{shard:02d}.tar", range(20))
    shards = find_shards(tmp_path, "train")
    cut_off(shards[3], samples)

    def read(max_bad):
        batches = StreamBatches(shards, 8, 4, 0, workers=workers, max_bad=max_bad, say=Lines())
        for step in range(110):  # two epochs
            batches.at(step)

    read(0.1)
    assert len(load_shards(shards, 8, say=Lines(), max_bad=0.1)) == 11 * 20 + samples
    cut_off(shards[7], samples)
    read(0.2)
    with pytest.raises(UserError, match="^2 of the last .* shards are lost or cut off, more than data.max_bad=0.1"):
        read(0.1)
    with pytest.raises(UserError, match="^2 of the last 12 shards"):
        load_shards(shards, 8, say=Lines(), max_bad=0.1)
    assert len(load_shards(shards, 8, say=Lines(), max_bad=0.2)) == 10 * 20 + 2 * samples


def test_what_is_taken_is_counted_anew():
    skipped = Skipped()
    for n in range(3):
        skipped(Bad("too small", f"number {n}"), f"{n} in 0.tar")
    skipped(ValueError("broken\nin two lines"))
    skipped.over("0.tar", True)
    taken, total = skipped.taken(), Skipped()
    assert skipped.count == 0 and skipped.first is None and skipped.shards == {} and taken.shards == {"0.tar": True}
    for _ in range(2):
        total.add(taken.counts, taken.firsts)
    assert total.counts == {"too small": 6, "unreadable": 2} and total.first == "0 in 0.tar: number 0"
    assert total.table() == "6 too small (first: 0 in 0.tar: number 0); 2 unreadable (first: broken)"
