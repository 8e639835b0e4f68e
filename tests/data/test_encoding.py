import pytest
import torch

from unclip.data.caption_embeddings import Captions
from unclip.data.embeddings import Pictures
from unclip.data.encoding import encoded_shards

from .clips import RampClip
from .pictures import captioned_tar, png, write_tar


def encode(shards, kinds, workers=0, **options):
    found = list(encoded_shards([(str(shard), kinds) for shard in shards], RampClip(), workers, **options))
    return {shard: (encoded, skipped) for shard, encoded, skipped in found}


@pytest.fixture
def shards(tmp_path):
    return [captioned_tar(tmp_path / f"{n}.tar", range(5 * n, 5 * n + 5)) for n in range(3)]


@pytest.fixture
def both():
    return [Pictures.of(RampClip()), Captions()]


def test_workers_change_nothing(shards, both):
    alone, helped = (encode(shards, both, workers, batch_size=2) for workers in (0, 2))
    assert set(alone) == set(helped) == set(map(str, shards))
    for shard, (encoded, _) in alone.items():
        for kind, (keys, tensors) in encoded.items():
            others, theirs = helped[shard][0][kind]
            assert keys == others and all(torch.equal(value, theirs[name]) for name, value in tensors.items())
            assert tensors.keys() == theirs.keys()


def test_more_workers_than_shards(shards, both):
    assert len(encode(shards[:1], both, workers=3)) == 1


def test_keys_are_in_the_shards_order(shards, both):
    for number, shard in enumerate(shards):
        for keys, tensors in encode([shard], both)[str(shard)][0].values():
            assert keys == [f"{5 * number + k:04d}" for k in range(5)]


def test_bad_samples_are_counted_and_what_is_good_of_them_kept(tmp_path, both):
    """A broken picture may have a caption, and a picture without one may be good."""
    shard = write_tar(tmp_path / "0.tar", [
        ("a.png", b"broken"), ("a.txt", b"one\n\n two "), ("b.png", png(9)), ("b.txt", b" "), ("c.png", png(8)),
        ("c.txt", b"x"), ("d.txt", b"\xff"),
    ])  # fmt: skip
    encoded, skipped = encode([shard], both)[str(shard)]
    (pictures, _), (captions, texts) = encoded.values()
    assert pictures == ["b", "c"] and captions == ["a", "a", "c"] and texts["embed"].flatten().tolist() == [3, 3, 1]
    assert skipped.count == 4 and skipped.first.startswith("a in 0.tar: ")


def test_a_shard_without_anything_readable_has_empty_tensors(tmp_path, both):
    shard = tmp_path / "0.tar"
    shard.write_bytes(b"no tar at all")
    encoded, skipped = encode([shard], both)[str(shard)]
    pictures, texts = encoded.values()
    assert pictures[0] == texts[0] == [] and pictures[1]["image_embed"].shape == (0, 2, 3)
    shapes = {name: tuple(value.shape) for name, value in texts[1].items()}
    assert shapes == {"embed": (0, 1), "states": (0, 1), "lengths": (0,), "sums": (0,)}
    assert skipped.count == 1


def test_a_sample_with_many_captions_is_encoded_in_batches(tmp_path):
    files = [("a.txt", b"x"), ("b.txt", b"\n".join(b"%d" % n for n in range(20))), ("c.txt", b"yy")]
    shard, clip = write_tar(tmp_path / "0.tar", files), RampClip()
    ((_, encoded, _),) = encoded_shards([(shard, [Captions()])], clip, batch_size=8)
    assert [len(captions) for captions in clip.captions] == [8, 8, 6]
    keys, texts = encoded[Captions()]
    assert keys == ["a", *"b" * 20, "c"] and texts["embed"].flatten().tolist() == [1, *[1] * 10, *[2] * 10, 2]


def test_progress_counts_the_first_kind(shards, both):
    counts = []
    encode(shards, both, progress=counts.append)
    assert sum(counts) == 15
    encode(shards, both[1:], progress=counts.append)
    assert sum(counts) == 30
