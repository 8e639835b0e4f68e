import json
import os
import signal
from collections import Counter

import pytest
import torch

from unclip.data.beside import write_beside
from unclip.data.caption_embeddings import Captions, texts_file
from unclip.data.captions import ClassCaptions
from unclip.data.embeddings import shard_embeddings
from unclip.data.encoding import encoded_shards
from unclip.data.stream import StreamBatches, share_of
from unclip.data.texts import CaptionEncoder
from unclip.errors import UserError

from .clips import RampClip
from .pictures import Lines, captioned_tar, png, write_tar


def stream(folder, batch_size=4, seed=0, workers=0, **options):
    return StreamBatches(sorted(folder.glob("*.tar")), 8, batch_size, seed, workers=workers, **options)


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        captioned_tar(tmp_path / f"{shard:05d}.tar", range(10 * shard, 10 * shard + 10))
    return tmp_path


def test_batches_are_like_a_tables(folder):
    batches = stream(folder)
    seen = Counter()
    for step in range(50):
        batch = batches.at(step)
        assert batch["image"].shape == (4, 3, 8, 8) and batch["image"].dtype == torch.uint8
        assert batch["caption"] == [f"picture {int(k)}" for k in batch["key"]]
        assert batch["image"][:, 1, 0, 0].tolist() == [int(k) for k in batch["key"]]
        seen.update(batch["key"])
    assert len(seen) == 30  # none is left out
    assert "image_embed" not in batch


def test_the_seed_chooses_the_order(folder):
    def keys(seed, workers=0):
        batches = stream(folder, seed=seed, workers=workers)
        return [key for step in range(8) for key in batches.at(step)["key"]]

    assert keys(0) == keys(0) == keys(0, workers=1)
    assert keys(0) != keys(1) and keys(0) != sorted(keys(0))


# ---- who reads what --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("count, readers", [(1, 1), (7, 1), (6, 3), (7, 3), (3, 7), (1, 4), (4, 6)])
def test_every_epoch_deals_each_shard_to_one_reader_and_all_have_their_turn(count, readers):
    read, orders = Counter(), set()
    for epoch in range(readers):
        shares = [share_of(reader, readers, epoch, count, seed=3) for reader in range(readers)]
        dealt = [shard for share in shares for shard in share]
        assert sorted(dealt) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        read.update({reader: len(share) for reader, share in enumerate(shares)})
        orders.add(str(shares))
    assert [read[reader] for reader in range(readers)] == [count] * readers  # nobody starves
    assert count == 1 or readers == 1 or len(orders) > 1


@pytest.mark.parametrize("world, workers", [(1, 0), (2, 0), (3, 1), (2, 2)])
def test_an_epoch_has_every_sample_once_over_all_processes_and_workers(tmp_path, world, workers):
    for shard in range(12):
        captioned_tar(tmp_path / f"{shard:05d}.tar", range(6 * shard, 6 * shard + 6))
    seen, steps = [], 12 * 6 // world // 3
    for rank in range(world):
        batches = stream(tmp_path, batch_size=3, rank=rank, world=world, workers=workers)
        seen.append([key for step in range(2 * steps) for key in batches.at(step)["key"]])
    for epoch in (slice(0, 3 * steps), slice(3 * steps, None)):
        assert sorted(key for keys in seen for key in keys[epoch]) == [f"{n:04d}" for n in range(72)]
    assert seen[0][: 3 * steps] != seen[0][3 * steps :]


def test_a_batch_goes_on_in_the_next_shard_and_then_in_the_next_epoch(folder):
    (folder / "00002.tar").unlink()
    captioned_tar(folder / "00001.tar", range(10, 17))
    batches = stream(folder, batch_size=6)
    keys = [key for step in range(17) for key in batches.at(step)["key"]]  # six epochs of 17
    for epoch in range(6):
        assert sorted(keys[17 * epoch : 17 * epoch + 17]) == [f"{n:04d}" for n in range(17)]


# ---- texts beside the shards ------------------------------------------------------------------------------------------

def write_texts(shard, clip):
    ((_, encoded, _),) = encoded_shards([(shard, [Captions()])], clip)
    keys, tensors = encoded[Captions()]
    write_beside(shard, texts_file(shard, "CLIP"), keys, tensors, "float32")


@pytest.fixture
def said(tmp_path):
    """Two shards of pictures with captions of several lengths, two lines each; and a CLIP that reads them."""
    for shard in range(2):
        lines = {n: f"{'a' * (n + 1)}\n\n{'b' * (8 - n)}" for n in range(8)}
        files = [[(f"{shard}{n}.png", png(n)), (f"{shard}{n}.txt", text.encode())] for n, text in lines.items()]
        write_tar(tmp_path / f"{shard}.tar", sum(files, []))
    return tmp_path, RampClip()


def without_padding(batch):
    """A batch with zeros for the states of what is no token: these, a file does not have."""
    return {**batch, "text_states": batch["text_states"] * batch["text_mask"][:, :, None]}


@pytest.mark.parametrize("workers", [0, 2])
def test_texts_beside_shards_are_those_that_are_encoded_without(said, workers):
    folder, clip = said
    for shard in sorted(folder.glob("*.tar")):
        write_texts(shard, clip)
    ahead, plain = stream(folder, workers=workers, text_fingerprint="CLIP"), stream(folder, workers=workers)
    silent, read, lengths = CaptionEncoder(clip), CaptionEncoder(RampClip()), set()
    asked = len(clip.captions)
    for step in range(12):  # three epochs
        batch = ahead.at(step)
        assert same(silent(batch), without_padding(read(plain.at(step))))
        lengths.update(map(len, batch["caption"]))
    assert len(clip.captions) == asked and len(lengths) == 8  # nothing was encoded on the way


def test_batches_that_lack_some_texts_have_none(said):
    folder, clip = said
    write_texts(folder / "0.tar", clip)
    batches = stream(folder, batch_size=6, text_fingerprint="CLIP")
    for step in range(8):
        batch = batches.at(step)
        assert ("text_states" in batch) == all(key[0] == "0" for key in batch["key"])
        assert CaptionEncoder(clip)(batch)["text_embed"].flatten().tolist() == [len(c) for c in batch["caption"]]


def test_texts_of_captions_that_have_changed_are_not_taken(said):
    """A tar's size does not tell: a short caption takes as much of it as another."""
    folder, clip = said
    for shard in sorted(folder.glob("*.tar")):
        write_texts(shard, clip)
    sizes = [shard.stat().st_size for shard in sorted(folder.glob("*.tar"))]
    for shard in range(2):
        files = [[(f"{shard}{n}.png", png(n)), (f"{shard}{n}.txt", b"a better caption\nanother")] for n in range(8)]
        write_tar(folder / f"{shard}.tar", sum(files, []))
    assert [shard.stat().st_size for shard in sorted(folder.glob("*.tar"))] == sizes
    assert "text_states" not in stream(folder, text_fingerprint="CLIP").at(0)


def test_files_of_a_shard_are_not_taken_for_what_lies_beside_it(tmp_path):
    named = ("texts", "embeds", "image_embed")
    write_tar(tmp_path / "0.tar", [(f"{n}.{e}", c) for n in range(4) for e, c in (
        ("png", png(n)), ("txt", b"x"), *((name, b"no tensor") for name in named)
    )])  # fmt: skip
    assert sorted(stream(tmp_path).at(0)["key"]) == ["0", "1", "2", "3"]


def test_no_texts_for_batches_without_captions(said):
    folder, clip = said
    for shard in sorted(folder.glob("*.tar")):
        write_texts(shard, clip)
    assert not {"text_states", "caption"} & stream(folder, text_fingerprint="CLIP", captions=False).at(0).keys()


# ---- going on --------------------------------------------------------------------------------------------------------

def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(v, other[k]) if torch.is_tensor(v) else v == other[k] for k, v in one.items())


@pytest.fixture
def spoilt(tmp_path):
    """Uneven shards of pictures with three captions each; some are broken, some keys come twice, and one shard is empty."""
    for shard, size in enumerate((9, 4, 1, 7, 5)):
        files = []
        for n in range(10 * shard, 10 * shard + size):
            files += [(f"{n}.png", b"broken" if n % 4 == 1 else png(n)), (f"{n}.txt", b"one\ntwo\nthree")]
        write_tar(tmp_path / f"{shard:05d}.tar", [*files, *files[:2]])
    (tmp_path / "00005.tar").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("workers, ends", [(0, range(1, 20)), (1, (7,)), (2, (1, 6, 9)), (3, (1, 5))])
def test_a_resumed_stream_is_the_unbroken_one_to_the_bit(spoilt, workers, ends, monkeypatch):
    monkeypatch.setattr("unclip.data.stream.SHUFFLE", 4)  # less than some shards hold
    batches, straight, states = stream(spoilt, batch_size=3, workers=workers), [], []
    for step in range(24):
        straight.append(batches.at(step))
        states.append(json.loads(json.dumps(batches.state())))
    for end in ends:
        lines = Lines()
        resumed = stream(spoilt, batch_size=3, workers=workers, say=lines)
        resumed.load(states[end - 1])
        assert resumed.state() == states[end - 1]
        for step in range(end, min(end + 8, 24)):
            assert same(resumed.at(step), straight[step]) and resumed.state() == states[step]
        assert not any("cannot go on" in line for line in lines)


def test_a_state_holds_after_the_folder_has_moved_and_for_another_batch_size(folder, tmp_path):
    batches = stream(folder, batch_size=5)
    first = batches.at(0)["key"] + batches.at(1)["key"]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for shard in folder.glob("*.tar"):
        shard.rename(moved / shard.name)
    resumed = stream(moved, batch_size=20)
    resumed.load(batches.state())
    assert sorted(first + resumed.at(2)["key"]) == [f"{n:04d}" for n in range(30)]


@pytest.mark.parametrize("change", ["workers", "processes", "seed", "shards", "all"])
def test_a_state_of_another_reading_starts_its_epoch_and_says_so(folder, change):
    batches, lines = stream(folder, workers=2), Lines()
    for step in range(20):
        batches.at(step)
    state, changes = batches.state(), {"workers": 2}
    epoch = min(epoch for epoch, _, _ in state["places"])
    assert epoch > 0
    if change == "workers":
        changes["workers"] = 0
    elif change == "processes":
        changes["world"] = 2
    elif change == "seed":
        changes["seed"] = 1
    elif change == "shards":
        captioned_tar(folder / "00003.tar", range(30, 40))
    else:
        state, epoch = {}, 0  # none was kept
    resumed = stream(folder, say=lines, **changes)
    resumed.load(state)
    assert resumed.at(20)["key"] and len(lines) == 1 and lines[0].endswith(f"it starts with epoch {epoch + 1}")
    assert change in lines[0] or change == "all"
    assert resumed.state()["places"][0][0] >= epoch


# ---- what comes with them --------------------------------------------------------------------------------------------


def test_embeddings_follow_key_shard_and_mirror(folder):
    clip = RampClip()
    for shard in folder.glob("*.tar"):
        shard_embeddings(shard, clip, "ramp")
    batches, mirrored = stream(folder, fingerprint="ramp"), set()
    for step in range(10):
        batch = batches.at(step)
        expected = clip.encode_image(batch["image"].float() / 127.5 - 1)
        torch.testing.assert_close(batch["image_embed"], expected, atol=2e-3, rtol=0)
        mirrored |= set((batch["image"][:, 0, 0, 0] > 0).tolist())
    assert mirrored == {True, False}


def test_embeddings_of_pictures_that_have_changed_are_not_taken(folder):
    def write(other=None):
        files = [[(f"00{n}.png", png(n + (n == other))), (f"00{n}.txt", b"x")] for n in range(10, 20)]
        return write_tar(folder / "00001.tar", sum(files, []))

    size = write().stat().st_size
    for shard in folder.glob("*.tar"):
        shard_embeddings(shard, RampClip(), "ramp")
    assert write(other=13).stat().st_size == size
    batches = stream(folder, fingerprint="ramp", say=Lines())
    assert "0013" not in [key for step in range(29) for key in batches.at(step)["key"]]
    assert batches.skipped.counts.keys() == {"no embedding"}
    assert batches.skipped.first.startswith("0013 in 00001.tar: 00001.ramp.safetensors has that of another picture: remove")


def test_labelled_shards(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"{n}.{e}", c) for n in range(6) for e, c in (("png", png(n)), ("cls", b"%d" % (n % 2)))])
    batch = stream(tmp_path, class_captions=ClassCaptions(names=[["dog"], ["cat"]], nouns=[[], []])).at(0)
    assert batch["concept"] == [("dog", "cat")[int(k) % 2] for k in batch["key"]]
    assert batch["label"].tolist() == [int(k) % 2 for k in batch["key"]]


def test_corrupt_samples_are_skipped_counted_and_reported(folder):
    write_tar(folder / "00001.tar", [("bad.png", b"broken"), ("bad.txt", b"x"), ("50.png", png(50)), ("50.txt", b"picture 50")])
    lines = Lines()
    batches = stream(folder, say=lines)
    keys = [k for step in range(100) for k in batches.at(step)["key"]]
    assert "50" in keys and "bad" not in keys
    assert "bad in 00001.tar" in lines[0] and batches.skipped.count > 5
    assert len(lines) < batches.skipped.count  # not a line each


@pytest.mark.parametrize("content", ["empty", "no pictures"])
def test_nothing_readable_ends(tmp_path, content, monkeypatch):
    monkeypatch.setattr("unclip.data.stream.PATIENCE", 50)
    (tmp_path / "0.tar").write_bytes(b"")
    if content == "no pictures":
        write_tar(tmp_path / "1.tar", [("0.png", b"no"), ("0.txt", b"x")])
    with pytest.raises(UserError, match=r"nothing readable in the shards \(.*[01].tar: .+\): prepare"):
        stream(tmp_path).at(0)


def test_workers_read_different_samples(folder):
    batches = stream(folder, workers=2)
    first, second = batches.at(0), batches.at(1)  # of one worker each
    assert first["key"] != second["key"] and first["caption"] == [f"picture {int(k)}" for k in first["key"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_a_whole_run_do_not_end_the_workers(folder, number):
    batches, others = stream(folder, workers=2), stream(folder, workers=2)
    for step in range(2):  # one of each: both are at work
        assert batches.at(step)["key"] == others.at(step)["key"]
    workers = [worker for loader in batches._batches for worker in loader._workers]
    for worker in workers:
        os.kill(worker.pid, number)
    for step in range(2, 30):  # more than lay prepared
        assert batches.at(step)["key"] == others.at(step)["key"]
    assert all(worker.is_alive() for worker in workers)


def test_captions_are_drawn_where_asked_for_and_torchs_generator_never(folder):
    state = torch.get_rng_state()
    batch = stream(folder, captions=False).at(0)
    assert set(batch) == {"image", "key"} and "caption" in stream(folder).at(0)
    assert torch.equal(torch.get_rng_state(), state)
