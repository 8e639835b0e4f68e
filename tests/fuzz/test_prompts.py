import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unclip.clip import FrozenCLIP
from unclip.errors import UserError
from unclip.outputs import slug
from unclip.prompts import MAX_PROMPT, MAX_WEIGHT, Composition, checked, notes, parsed

VOCABULARY = {"a", "photo", "of", "dog", "cat", "bridge", "butterfly"}
PIECES = [" AND ", "AND", ":", "\\:", "\\", ":1.2", ":-.5", ":nan", ":1e9", ": 1_0", ":\u0663", " ", "\n", "\x00", "\u200b",
          "e\u0301", "&amp;", "Ã©",
          "\U0001f600", "\ud800", "\u202e", "<|endoftext|>", "<start_of_text>", "dog", "a photo of a dog"]  # fmt: skip
prompts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join),
    st.builds(lambda piece, n: piece * n, st.sampled_from(PIECES) | st.characters(), st.integers(1, 8000)),
)
plain_parts = st.text("abc \u00e9\U0001f600", min_size=1, max_size=10).map(lambda t: " ".join(t.split())).filter(bool)


@pytest.fixture(scope="module")
def clip(model_files):
    return FrozenCLIP(model_files / "clip")


@given(prompt=prompts)
def test_any_text_is_a_prompt_or_one_line(clip, prompt):
    try:
        (same,) = checked(prompt)
    except UserError as error:
        assert "\n" not in str(error) and str(error).encode()
        return
    assert same == prompt and len(prompt) <= MAX_PROMPT
    read = parsed(prompt)
    parts = read.parts if isinstance(read, Composition) else [read]
    if isinstance(read, Composition):
        assert all(parts) and len(parts) == len(read.weights) and max(read.weights) > 0 and str(read)
        assert all(math.isfinite(w) and abs(w) <= MAX_WEIGHT for w in read.weights)
    assert all(isinstance(line, str) for line in notes(prompt, clip, VOCABULARY))
    tokens = clip.tokenize(parts)
    assert tokens.shape == (len(parts), clip.context_length) and 0 <= tokens.min() and tokens.max() < 49408
    assert (tokens[:, 0] == 49406).all() and (tokens == 49407).any(1).all()  # a start and an end, whatever is between
    name = slug(prompt)
    assert name and "/" not in name and "\0" not in name and len(name.encode()) < 256 and name not in (".", "..")


@given(parts=st.lists(st.tuples(plain_parts, st.floats(-10, 10)), min_size=1, max_size=5))
def test_what_is_composed_is_read_back(parts):
    wanted = [(text, round(weight, 3)) for text, weight in parts]
    prompt = " AND ".join(f"{text}:{weight}" for text, weight in wanted)
    if max(weight for _, weight in wanted) <= 0:
        with pytest.raises(UserError, match="asks for nothing"):
            parsed(prompt)
    else:
        assert list(zip(parsed(prompt).parts, parsed(prompt).weights)) == wanted


@given(caption=st.text(max_size=200) | st.builds(lambda c, n: c * n, st.characters(), st.integers(1, 200_000)))
def test_any_caption_is_tokenized(clip, caption):
    tokens = clip.tokenize([caption])
    assert tokens.shape == (1, clip.context_length) and tokens[0, 0] == 49406
