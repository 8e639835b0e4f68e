import torch

from unclip.data.texts import CaptionEncoder, Read

from .clips import RampClip


def test_captions_and_the_empty_caption_are_added():
    batch = CaptionEncoder(RampClip())({"caption": ["ab", "abcd", "ab"], "key": ["x"]})
    assert batch["text_embed"].tolist() == [[2], [4], [2]] and batch["text_mask"].sum(1).tolist() == [2, 4, 2]
    assert batch["null_text_embed"].tolist() == [[0]] and batch["key"] == ["x"]


def test_they_are_cut_to_the_longest_caption_of_the_batch():
    encode = CaptionEncoder(RampClip())
    for longest in (4, 6, 2):  # and what is remembered is whole
        batch = encode({"caption": ["ab", "a" * longest]})
        assert batch["text_states"].flatten(1).tolist() == [[n + k for k in range(longest)] for n in (2, longest)]
        assert batch["text_mask"].tolist() == [[k < n for k in range(longest)] for n in (2, longest)]
        assert batch["null_text_states"].shape == (1, longest, 1) and batch["null_text_mask"].tolist() == [[False] * longest]


def test_new_captions_are_encoded_together_and_known_ones_not_at_all():
    clip = RampClip()
    encode = CaptionEncoder(clip)
    encode({"caption": ["ab", "abcd", "ab"]})
    batch = encode({"caption": ["abc", "ab"]})
    assert clip.captions == [[""], ["ab", "abcd"], ["abc"]]
    assert batch["text_embed"].tolist() == [[3], [2]]


def test_memory_is_bounded_and_the_oldest_go_first():
    clip = RampClip()
    encode = CaptionEncoder(clip, remember=2 * 44)  # two captions of 9 floats and 8 bools
    for caption in ("a", "bb", "a", "ccc"):
        encode({"caption": [caption]})
    assert list(encode.known) == ["a", "ccc"]
    assert encode({"caption": ["bb", "a", "dddd", "eeeee"]})["text_embed"].flatten().tolist() == [2, 1, 4, 5]
    assert len(encode.known) == 2


def test_texts_from_beside_shards_meet_those_of_the_empty_caption_on_clips_device(monkeypatch):
    """Batches are made on the CPU, and the empty caption was read on a GPU, of which `meta` has the part here."""
    encode, devices = CaptionEncoder(RampClip()), set()

    def trimmed(*texts):
        devices.update(value.device.type for text in texts for value in text.values())
        return texts

    monkeypatch.setattr("unclip.data.texts.trimmed", trimmed)
    batch = RampClip().encode_text(["ab"]).batch()
    encode.null = {key: value.to("meta") for key, value in encode.null.items()}
    assert encode(batch)["text_states"].device.type == "meta" and devices == {"meta"}


def test_batches_come_with_texts():
    class Batches:
        def at(self, step):
            return {"caption": ["x" * step]}

    assert torch.equal(Read(Batches(), CaptionEncoder(RampClip())).at(6)["text_embed"], torch.tensor([[6.0]]))
