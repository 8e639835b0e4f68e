import pytest
import torch
from conftest import D, TEXT_WIDTH

from unclip.clip import FrozenCLIP
from unclip.data.beside import read_beside, write_beside
from unclip.data.caption_embeddings import Captions, read_texts, texts_file, together
from unclip.data.encoding import encoded_shards
from unclip.data.sums import sum_of
from unclip.data.texts import CaptionEncoder

from .pictures import png, write_tar

CAPTIONS = {"a": ["a dog"], "b": ["a red car by the bridge", "cat"], "c": ["the cat " * 20], "d": ["a dog"]}


@pytest.fixture(scope="module")
def clip(model_files):
    return FrozenCLIP(model_files / "clip", unit_variance=True)


@pytest.fixture
def shard(clip, tmp_path):
    """A shard of four samples and five captions, embedded."""
    files = [[(f"{key}.png", png(3)), (f"{key}.txt", "\n".join(lines).encode())] for key, lines in CAPTIONS.items()]
    shard = write_tar(tmp_path / "0.tar", sum(files, []))
    ((_, encoded, _),) = encoded_shards([(shard, [Captions()])], clip)
    keys, tensors = encoded[Captions()]
    write_beside(shard, texts_file(shard, clip.fingerprint()), keys, tensors, "float32")
    return shard


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [2], [4, 0, 4, 2], [3, 1]])
def test_they_are_those_that_a_training_would_compute(shard, clip, rows):
    lines = sum(CAPTIONS.values(), [])
    expected = CaptionEncoder(clip)({"caption": [lines[row] for row in rows]})
    texts = read_texts(shard, clip.fingerprint())
    found = together([texts[row] for row in rows])
    mask = found["text_mask"]
    assert torch.equal(mask, expected["text_mask"][:, : mask.shape[1]]) and not expected["text_mask"][:, mask.shape[1] :].any()
    assert found["text_embed"].shape == (len(rows), D) and found["text_states"].shape == (*mask.shape, TEXT_WIDTH)
    torch.testing.assert_close(found["text_embed"], expected["text_embed"], atol=4e-3, rtol=1e-3)
    states = expected["text_states"][:, : mask.shape[1]]
    torch.testing.assert_close(found["text_states"][mask], states[mask], atol=4e-3, rtol=1e-3)
    assert not found["text_states"][~mask].any()


def test_a_sample_has_an_item_for_each_of_its_lines(shard, clip):
    texts = read_texts(shard, clip.fingerprint())
    assert len(texts) == 5 and [len(texts.of(key)) for key in "abcde"] == [1, 2, 1, 1, 0]
    assert list(texts.of("b")) == [sum_of(line) for line in CAPTIONS["b"]]
    for (embed, states), row in zip(texts.of("b").values(), (1, 2)):
        assert torch.equal(embed, texts.embed[row]) and len(states) == clip.num_tokens(CAPTIONS["b"][row - 1])


def test_padding_is_not_kept(shard, clip):
    lines = sum(CAPTIONS.values(), [])
    texts = read_texts(shard, clip.fingerprint())
    assert len(texts.states) == sum(min(clip.num_tokens(line), clip.context_length) for line in lines)


def test_none_where_the_file_is_not_the_shards(shard, clip):
    file = texts_file(shard, clip.fingerprint())
    assert read_texts(shard, "another") is None
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert read_texts(shard, clip.fingerprint()) is None
    file.write_bytes(whole)
    shard.write_bytes(shard.read_bytes() + bytes(512))
    assert read_texts(shard, clip.fingerprint()) is None


@pytest.mark.parametrize("keys", [3, None, [[]] * 5, {"a": 1}, "abcde", list("abcd")])
def test_none_where_the_keys_are_none(shard, clip, keys):
    file = texts_file(shard, clip.fingerprint())
    _, tensors = read_beside(shard, file)
    write_beside(shard, file, keys, tensors, "float32")
    assert read_texts(shard, clip.fingerprint()) is None


@pytest.mark.parametrize("name, harm", [
    ("states", lambda t: t[0, 0]), ("embed", lambda t: t[0, 0]), ("embed", lambda t: t[:4]), ("states", lambda t: t[:-1]),
    ("lengths", torch.Tensor.float), ("lengths", lambda t: t[:, None]), ("sums", torch.Tensor.long), ("sums", lambda t: t[:-1]),
    ("lengths", lambda t: t + torch.tensor([-99, 99, 0, 0, 0], dtype=torch.int32)),
])  # fmt: skip
def test_none_where_the_tensors_are_of_no_captions(shard, clip, name, harm):
    file = texts_file(shard, clip.fingerprint())
    keys, tensors = read_beside(shard, file)
    write_beside(shard, file, keys, {**tensors, name: harm(tensors[name]).contiguous()}, "float32")
    assert read_texts(shard, clip.fingerprint()) is None
