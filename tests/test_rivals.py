import math

import pytest
import torch
import torch.nn.functional as F

from unclip.data.captions import ClassCaptions
from unclip.prior import margins
from unclip.rivals import Rivals

CLASSES = ClassCaptions(
    names=[["tabby cat"], ["lion"], ["soda bottle", "pop bottle"], ["beer bottle"], ["school bus"], ["sunglasses"]],
    nouns=[["cat", "animal"], ["animal"], ["bottle"], ["bottle"], ["bus"], []],
    no_article=["sunglasses"],
)


@pytest.fixture
def asked():
    """The lists of captions whose directions were asked for."""
    return []


@pytest.fixture
def rivals(asked):
    return Rivals(CLASSES, lambda captions: asked.append(captions) or torch.eye(len(captions)))


@pytest.mark.parametrize("prompt, named", [
    ("a photo of a tabby cat.", {0}),
    ("a CAT, close up", {0}),
    ("an animal", {0, 1}),
    ("a bottle", {2, 3}),
    ("a soda bottle", {2}),  # which is a bottle, but not the other one
    ("a pop bottle beside a lion", {1, 2}),
    ("two lions and three buses", {1, 4}),
    ("a bus for school", {4}),
    ("sunglasses", {5}),
    ("a photo of a catalogue", set()),
    ("", set()),
    ("...", set()),
])  # fmt: skip
def test_what_a_prompt_names(rivals, prompt, named):
    assert rivals.named(prompt) == named


def test_the_rivals_are_all_the_other_classes(rivals, asked):
    embed, against = rivals.of(["a bottle", "a house", "a lion"])
    assert asked == [[
        "a photo of a tabby cat.", "a photo of a lion.", "a photo of a soda bottle.", "a photo of a beer bottle.",
        "a photo of a school bus.", "a photo of sunglasses.",
    ]]  # fmt: skip
    assert torch.equal(embed, torch.eye(6))
    expected = [[True, True, False, False, True, True], [False] * 6, [True, False, True, True, True, True]]
    assert against.tolist() == expected


def test_names_are_read_when_they_are_needed_and_once(rivals, asked):
    assert rivals.of(["a house", ""]) == (None, None)
    assert asked == []
    rivals.of(["a lion"]), rivals.of(["a bus"])
    assert len(asked) == 1


def test_a_prompt_that_names_every_class_has_no_rivals():
    (embed, against) = Rivals(ClassCaptions(names=[["dog"], ["cat"]], nouns=[[], []]), lambda names: torch.eye(2)).of(["a dog and a cat"])
    assert not against.any()


# ---- margins ---------------------------------------------------------------------------------------------------------

def at(*degrees):
    """Vectors of various lengths in the plane, at angles to the first axis."""
    return torch.tensor([[k * math.cos(math.radians(d)), k * math.sin(math.radians(d))] for k, d in enumerate(degrees, 2)])


def test_the_margin_is_the_cosine_less_the_largest_of_a_rival():
    found = margins(at(10, 30)[None], at(0), at(90, 40, 180), torch.tensor([[True, True, True]]))
    cos = [[math.cos(math.radians(a)) for a in angles] for angles in ((10, 30), (30, 10))]
    torch.testing.assert_close(found, torch.tensor(cos[0])[None] - torch.tensor(cos[1])[None])


def test_without_rivals_it_is_the_cosine():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(3, 5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    cosines = F.cosine_similarity(image, text[:, None], dim=-1)
    torch.testing.assert_close(margins(image, text), cosines)
    against = torch.tensor([[False, False], [True, False], [False, False]])
    some = margins(image, text, torch.randn(2, 8, generator=generator), against)
    torch.testing.assert_close(some[[0, 2]], cosines[[0, 2]])
    assert (some[1] - cosines[1]).abs().min() > 1e-3


def test_a_near_rival_tells_against_the_nearest():
    """The nearest to the text, at 5 degrees on the rival's side, is nearer to the rival; the other, at -20, is plainly no rival's."""
    image, text, rival = at(5, -20)[None], at(0), at(8)
    assert margins(image, text).argmax() == 0
    assert margins(image, text, rival, torch.tensor([[True]])).argmax() == 1
