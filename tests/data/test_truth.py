"""Which captions are true of which pictures, against a slow reading of each pair."""

import random

import pytest
import torch

from unclip.data.captions import Caption, ClassCaptions
from unclip.data.truth import truth_of_classes, truth_of_texts

CAPTIONS = ClassCaptions(
    names=[["Labrador retriever", "Labrador"], ["tabby"], ["sports car", "sport car"]],
    nouns=[["dog"], ["cat"], ["car"]], reading_share=1.0,
)  # fmt: skip


def plain(label, concept, **said):
    return Caption(CAPTIONS.caption(concept, "a photo of {a}", said), concept, said)


@pytest.mark.parametrize(
    "label, readings, caption, expected",
    [
        (0, {}, plain(0, "Labrador retriever"), 1),
        (0, {}, plain(0, "Labrador"), 1),  # another name of the same class
        (0, {}, plain(0, "dog"), 1),
        (0, {}, plain(1, "cat"), -1),
        (2, {"colour": "red"}, plain(2, "sports car", colour="red"), 1),
        (2, {"colour": "blue"}, plain(2, "sports car", colour="red"), -1),
        (2, {}, plain(2, "sports car", colour="red"), 0),  # no colour leads: nobody can say
        (2, {"place": "left"}, plain(2, "car", colour="red"), 0),
        (2, {"colour": "red", "place": "left"}, plain(2, "car", colour="red"), 1),
        (2, {"colour": "blue"}, plain(2, "car", colour="red", place="left"), -1),  # one word is wrong
        (1, {"colour": "red"}, plain(2, "car", colour="red"), -1),
        (1, {}, plain(2, "car", colour="red"), -1),  # no cat is a car of whatever colour
    ],
)
def test_what_is_true_false_and_unknown(label, readings, caption, expected):
    own = plain(label, CAPTIONS.names[label][0])
    truth = truth_of_classes(CAPTIONS, [label, 0], [readings, {}], [own, caption])
    assert truth[0].tolist() == [1, expected]


def test_a_batch_equals_a_slow_reading_and_every_caption_is_true_of_its_own_picture():
    rng = random.Random(0)
    labels = [rng.randrange(3) for _ in range(40)]
    words = {"colour": ["red", "blue", None], "place": ["left", "right", None]}
    readings = [{k: w for k, options in words.items() if (w := rng.choice(options))} for _ in labels]
    drawn = [CAPTIONS.draw(label, rng, r) for label, r in zip(labels, readings)]
    truth = truth_of_classes(CAPTIONS, labels, readings, drawn)
    assert truth.diagonal().eq(1).all() and {-1, 0, 1} == set(truth.unique().tolist())
    for i, (label, shown) in enumerate(zip(labels, readings)):
        for j, caption in enumerate(drawn):
            verdicts = [1 if caption.concept in CAPTIONS.concepts(label) else -1]
            verdicts += [0 if key not in shown else 1 if shown[key] == word else -1 for key, word in caption.said.items()]
            assert truth[i, j] == min(verdicts, key=lambda v: (v != -1, v)), (shown, caption)


def test_a_word_that_the_name_has_is_not_said():
    oranges = ClassCaptions(names=[["orange"]], nouns=[[]], reading_share=1.0)
    drawn = [oranges.draw(0, random.Random(k), {"colour": "orange"}) for k in range(20)]
    assert all(caption.said == {} and caption.text == "a photo of an orange" for caption in drawn)


def test_pictures_with_captions_of_their_own():
    captions = [["a dog", "a puppy"], ["a puppy"], ["a cat"]]
    truth = truth_of_texts(captions, ["a dog", "a puppy", "a cat"])
    assert torch.equal(truth, torch.tensor([[1, 1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.int8))
