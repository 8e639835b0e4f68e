from types import SimpleNamespace

import pytest

from unclip.errors import UserError
from unclip.prompts import checked, notes, parsed, read_prompts

VOCABULARY = {"a", "photo", "of", "dog", "cat", "bridge", "butterfly"}


def clip(context_length=20):
    """A tokenizer that takes a word for a token, between a start and an end."""
    return SimpleNamespace(context_length=context_length, num_tokens=lambda prompt: len(prompt.split()) + 2)


def test_one_prompt_or_several():
    assert checked("a dog") == ["a dog"]
    assert checked(("a dog", "a cat")) == ["a dog", "a cat"]


@pytest.mark.parametrize("prompts", ["", "  \n", [], ["a dog", ""], [None], ["a dog", "\udcff"]])
def test_bad_prompts(prompts):
    with pytest.raises(UserError, match="prompt"):
        checked(prompts)


def test_a_file_holds_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffa dog\r\n\n  a caf\u00e9 # no remark\n".encode())
    assert read_prompts(tmp_path / "p.txt") == ["a dog", "a caf\u00e9 # no remark"]


def test_bad_files(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    for name, says in (("none.txt", "no prompts file"), ("empty.txt", "no prompt"), ("picture.txt", "UTF-8"), ("", "no prompts")):
        with pytest.raises(UserError, match=says):
            read_prompts(tmp_path / name)


def test_nothing_to_say():
    assert notes("a photo of a dog", clip(), VOCABULARY) == notes("Dog, cat!", clip(), VOCABULARY) == []
    assert notes("an unheard word", clip(), frozenset()) == []  # a model that does not know its words
    assert notes("two of these with the dog", clip(8), VOCABULARY) == []  # words without a picture


def test_unknown_words_are_named_with_the_nearest_known():
    (line,) = notes("a dgo of a brigde, brigde", clip(), VOCABULARY)
    assert line.count("'brigde'") == 1 and "'dgo'" in line
    near = line.split("nearest words it knows: ")[1].split(", ")
    assert {"dog", "bridge"} <= set(near) <= VOCABULARY


def test_a_word_like_no_other_still_gets_a_nearest_one():
    (line,) = notes("xylophone", clip(), VOCABULARY)
    assert line.split("nearest words it knows: ")[1] in VOCABULARY


@pytest.mark.parametrize("words, cut", [(4, False), (5, True)])
def test_a_prompt_is_too_long_when_it_does_not_fit_with_its_markers(words, cut):
    lines = notes(" ".join(["dog"] * words), clip(6), VOCABULARY)
    assert len(lines) == cut
    assert not cut or ("7 tokens" in lines[0] and "cut after 6" in lines[0])


# ---- weights ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt, parts, weights", [
    ("a dog:1.2", ("a dog",), (1.2,)),
    ("a dog : 2", ("a dog",), (2.0,)),
    ("a dog AND a beach", ("a dog", "a beach"), (1.0, 1.0)),
    ("a dog:1.5 AND a beach:.5 AND snow:-0.3", ("a dog", "a beach", "snow"), (1.5, 0.5, -0.3)),
    (r"a clock at 10\:30:2", ("a clock at 10:30",), (2.0,)),
])  # fmt: skip
def test_weights_of_a_prompt(prompt, parts, weights):
    found = parsed(prompt)
    assert (found.parts, found.weights) == (parts, weights)


@pytest.mark.parametrize("prompt, plain", [
    ("a dog", "a dog"), ("salt and pepper", "salt and pepper"), ("SAND AND", "SAND AND"), ("a photo of: a dog", "a photo of: a dog"),
    ("a dog:big", "a dog:big"), (r"at 10\:30", "at 10:30"), ("4:3 ratio", "4:3 ratio"), (":", ":"), (":2", ":2"),
])  # fmt: skip
def test_a_prompt_without_weights_is_a_string(prompt, plain):
    assert parsed(prompt) == plain


def test_a_composition_reads_as_what_is_wanted():
    assert str(parsed("a dog:1.5 AND snow:-0.3 AND a beach")) == "a dog, a beach"


@pytest.mark.parametrize("prompt, says", [
    ("a dog:1.2.3", "'1.2.3'"), ("a dog:1,5", "'1,5'"), ("a dog:5x", "'5x'"), ("a dog:1e9", "'1e9'"), ("a clock at 10:30", "'30'"),
    ("a dog:-1", "asks for nothing"), ("a dog:0", "asks for nothing"), ("a dog AND ", "empty part"), (" AND a dog:1", "empty part"),
])  # fmt: skip
def test_a_wrong_weight_is_one_line(prompt, says):
    for read in (parsed, checked):
        with pytest.raises(UserError) as error:
            read(prompt)
        assert says in str(error.value) and "\n" not in str(error.value)
