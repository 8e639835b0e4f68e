from collections import Counter

import pytest
import torch

from unclip.data.captions import ClassCaptions
from unclip.data.embeddings import shard_embeddings
from unclip.data.stream import StreamBatches
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


def test_seed_step_and_rank_choose_the_order(folder):
    def keys(first, rank):
        batches = stream(folder, rank=rank)
        return [key for step in range(first, first + 5) for key in batches.at(step)["key"]]

    assert keys(0, 0) == keys(0, 0)
    assert keys(0, 0) != keys(100, 0) and keys(0, 0) != keys(0, 1) and keys(0, 0) != sorted(keys(0, 0))


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
    with pytest.raises(UserError, match="nothing readable in the shards"):
        stream(tmp_path).at(0)


def test_workers_read_different_samples(folder):
    batches = stream(folder, workers=2)
    first, second = batches.at(0), batches.at(1)  # of one worker each
    assert first["key"] != second["key"] and first["caption"] == [f"picture {int(k)}" for k in first["key"]]


def test_captions_are_drawn_where_asked_for_and_torchs_generator_never(folder):
    state = torch.get_rng_state()
    batch = stream(folder, captions=False).at(0)
    assert set(batch) == {"image", "key"} and "caption" in stream(folder).at(0)
    assert torch.equal(torch.get_rng_state(), state)
