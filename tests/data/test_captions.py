import random
from collections import Counter

import pytest

from unclip.data.attributes import WORDS
from unclip.data.captions import ClassCaptions, with_article, words_of
from unclip.errors import UserError


@pytest.fixture
def captions():
    return ClassCaptions(
        names=[["Egyptian cat", "Nile cat"], ["sunglasses"]],
        nouns=[["cat", "animal"], []],
        templates=["a photo of {a}", "the {}"],
        no_article=["sunglasses"],
    )


@pytest.mark.parametrize("name, phrase", [
    ("dog", "a dog"), ("ox", "an ox"), ("apple", "an apple"), ("umbrella", "an umbrella"), ("unicorn", "a unicorn"),
    ("uniform", "a uniform"), ("European fire salamander", "a European fire salamander"), ("hourglass", "an hourglass"),
    ("Egyptian cat", "an Egyptian cat"), ("one-piece suit", "a one-piece suit"), ("onion", "an onion"),
    ("utensil", "a utensil"), ("uninhabited island", "an uninhabited island"), ("horse", "a horse"), ("ewe", "a ewe"),
])  # fmt: skip
def test_articles(name, phrase):
    assert with_article(name) == phrase


def test_no_article_for_plurals():
    assert with_article("sunglasses", ["sunglasses"]) == "sunglasses"


def test_drawn_captions_are_true_and_shares_are_kept(captions):
    rng = random.Random(0)
    drawn = [captions.draw(0, rng) for _ in range(4000)]
    for caption, concept, _ in drawn:
        assert concept in captions.concepts(0)
        assert caption in (f"a photo of {with_article(concept)}", f"the {concept}")
    share = {c: n / 4000 for c, n in Counter(caption.concept for caption in drawn).items()}
    assert share["cat"] == pytest.approx(0.175, abs=0.03) and share["animal"] == pytest.approx(0.175, abs=0.03)
    assert share["Egyptian cat"] == pytest.approx(0.325, abs=0.03) and share["Nile cat"] == pytest.approx(0.325, abs=0.03)


def test_class_without_nouns_uses_its_name(captions):
    rng = random.Random(0)
    assert {captions.draw(1, rng)[:2] for _ in range(50)} == {
        ("a photo of sunglasses", "sunglasses"), ("the sunglasses", "sunglasses")}  # fmt: skip


def test_words_are_all_that_captions_can_hold(captions):
    assert captions.words() == sorted("a an animal cat egyptian nile of photo sunglasses the".split())
    rng = random.Random(1)
    for label in (0, 1) * 100:
        assert set(words_of(captions.draw(label, rng)[0])) <= set(captions.words())


@pytest.fixture
def telling():
    return ClassCaptions([["car", "auto"], ["sunglasses"]], [[], []], ["a photo of {a}", "the {}"], ["sunglasses"], reading_share=1.0)


@pytest.mark.parametrize("concept, template, said, caption", [
    ("car", "a photo of {a}", {"colour": "orange"}, "a photo of an orange car"),
    ("car", "the {}", {"colour": "red", "place": "left"}, "the red car on the left"),
    ("sunglasses", "a photo of {a}", {"colour": "blue", "size": "small"}, "a photo of small blue sunglasses"),
    ("car", "the {}", {"photo": "dark", "size": "close-up", "colour": "red"}, "a dark close-up photo of a red car"),
    ("car", "the {}", {"photo": "black and white", "place": "right"}, "a black and white photo of a car on the right"),
    ("car", "a photo of {a}", {}, "a photo of a car"),
    ("orange", "a photo of {a}", {"colour": "orange", "size": "small"}, "a photo of a small orange"),
])  # fmt: skip
def test_readings_go_where_a_person_would_say_them(telling, concept, template, said, caption):
    assert telling.caption(concept, template, said) == caption


def test_what_is_said_was_read_and_sometimes_is_not_said(telling):
    rng = random.Random(0)
    readings = {"colour": "red", "photo": "dark", "size": "small", "place": "left"}
    drawn = [telling.draw(0, rng, readings)[0] for _ in range(2000)]
    for word in readings.values():
        assert sum(word in words_of(text) for text in drawn) / 2000 == pytest.approx(0.7, abs=0.04)
    others = {w for words in WORDS.values() for w in words} - set(readings.values())
    assert not any(set(words_of(text)) & others for text in drawn)
    assert all(set(words_of(text)) <= set(telling.words()) for text in drawn)
    telling.reading_share = 0.0
    assert not any("red" in telling.draw(0, rng, readings)[0] for _ in range(50)) and "red" not in telling.words()


def test_words_of_text():
    assert words_of('A "red" dog, (running)!') == ["a", "red", "dog", "running"]


def test_saved_captions_are_read_again(captions, tmp_path):
    (tmp_path / "classnames.txt").write_text("Egyptian cat\nsunglasses\n")
    captions.save(tmp_path / "captions.json")
    assert ClassCaptions.of_folder(tmp_path) == captions
    (tmp_path / "captions.json").write_text("{")
    with pytest.raises(UserError, match="captions.json is damaged"):
        ClassCaptions.of_folder(tmp_path)


def test_class_names_alone_do(tmp_path):
    assert ClassCaptions.of_folder(tmp_path) is None
    (tmp_path / "classnames.txt").write_text("dog\r\nred fox\r\n\r\n")
    assert ClassCaptions.of_folder(tmp_path).names == [["dog"], ["red fox"]]
