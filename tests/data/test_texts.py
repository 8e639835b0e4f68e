import torch

from unclip.data.texts import CaptionEncoder, WithTexts

from .clips import RampClip


def test_captions_and_the_empty_caption_are_added():
    batch = CaptionEncoder(RampClip())({"caption": ["ab", "abcd", "ab"], "key": ["x"]})
    assert batch["text_embed"].tolist() == [[2], [4], [2]] and batch["text_mask"].tolist() == [[False], [True], [False]]
    assert batch["null_text_embed"].tolist() == [[0]] and batch["key"] == ["x"]


def test_new_captions_are_encoded_together_and_known_ones_not_at_all():
    clip = RampClip()
    encode = CaptionEncoder(clip)
    encode({"caption": ["ab", "abcd", "ab"]})
    batch = encode({"caption": ["abc", "ab"]})
    assert clip.captions == [[""], ["ab", "abcd"], ["abc"]]
    assert batch["text_embed"].tolist() == [[3], [2]]


def test_memory_is_bounded_and_the_oldest_go_first():
    clip = RampClip()
    encode = CaptionEncoder(clip, remember=2 * 5)  # two captions of a float and a bool
    for caption in ("a", "bb", "a", "ccc"):
        encode({"caption": [caption]})
    assert list(encode.known) == ["a", "ccc"]
    assert encode({"caption": ["bb", "a", "dddd", "eeeee"]})["text_embed"].flatten().tolist() == [2, 1, 4, 5]
    assert len(encode.known) == 2


def test_batches_come_with_texts():
    class Batches:
        def at(self, step):
            return {"caption": ["x" * step]}

    assert torch.equal(WithTexts(Batches(), RampClip()).at(6)["text_embed"], torch.tensor([[6.0]]))
