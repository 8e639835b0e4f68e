"""Which captions are true of which pictures, against a slow reading of each pair."""

import random

import pytest
import torch

from unclip.data.captions import Caption, ClassCaptions
from unclip.data.truth import truth_of

CAPTIONS = ClassCaptions(
    names=[["Labrador retriever", "Labrador"], ["tabby"], ["sports car", "sport car"]],
    nouns=[["dog"], ["cat"], ["car"]], reading_share=1.0,
)  # fmt: skip


def of_classes(labels, readings, drawn):
    """The truth of a batch of labelled pictures."""
    known = [CAPTIONS.concepts(label) for label in labels]
    return truth_of({"known": known, "readings": readings, "concept": [d.concept for d in drawn], "said": [d.said for d in drawn]})


def plain(concept, **said):
    return Caption(CAPTIONS.caption(concept, "a photo of {a}", said), concept, said)


@pytest.mark.parametrize(
    "label, readings, caption, expected",
    [
        (0, {}, plain("Labrador retriever"), 1),
        (0, {}, plain("Labrador"), 1),  # another name of the same class
        (0, {}, plain("dog"), 1),
        (0, {}, plain("cat"), -1),
        (2, {"colour": "red"}, plain("sports car", colour="red"), 1),
        (2, {"colour": "blue"}, plain("sports car", colour="red"), -1),
        (2, {}, plain("sports car", colour="red"), 0),  # no colour leads: nobody can say
        (2, {"place": "left"}, plain("car", colour="red"), 0),
        (2, {"colour": "red", "place": "left"}, plain("car", colour="red"), 1),
        (2, {"colour": "blue"}, plain("car", colour="red", place="left"), -1),  # one word is wrong
        (1, {"colour": "red"}, plain("car", colour="red"), -1),
        (1, {}, plain("car", colour="red"), -1),  # no cat is a car of whatever colour
    ],
)
def test_what_is_true_false_and_unknown(label, readings, caption, expected):
    own = plain(CAPTIONS.names[label][0])
    truth = of_classes([label, 0], [readings, {}], [own, caption])
    assert truth[0].tolist() == [1, expected]


def test_a_batch_equals_a_slow_reading_and_every_caption_is_true_of_its_own_picture():
    rng = random.Random(0)
    labels = [rng.randrange(3) for _ in range(40)]
    words = {"colour": ["red", "blue", None], "place": ["left", "right", None]}
    readings = [{k: w for k, options in words.items() if (w := rng.choice(options))} for _ in labels]
    drawn = [CAPTIONS.draw(label, rng, r) for label, r in zip(labels, readings)]
    truth = of_classes(labels, readings, drawn)
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
    drawn, nothing = ["a dog", "a puppy", "a cat"], [{}] * 3
    truth = truth_of({"known": captions, "concept": drawn, "said": nothing, "readings": nothing})
    assert torch.equal(truth, torch.tensor([[1, 1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.int8))
