"""What can be said about a prompt before it is drawn: empty, too long, or with words the model never saw."""

import difflib
from pathlib import Path

from .data.captions import words_of
from .errors import UserError

# Words without a picture of their own; a model need not have seen them for a prompt to be understood.
FUNCTION_WORDS = frozenset(
    "a an the of in on at by with and or to from for is are this that these those there it its some one two three "
    "my your his her our their as into over under near next beside behind very".split()
)


def checked(prompts):
    """A prompt or several as a list. Raises UserError for an empty one, or none."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise UserError('no prompt: write what to draw, e.g. "a photo of a dog"')
    if any(not isinstance(p, str) or not p.strip() for p in prompts):
        raise UserError('an empty prompt: write what to draw, e.g. "a photo of a dog"')
    if any(p.encode("utf-8", "ignore").decode("utf-8") != p for p in prompts):
        raise UserError("a prompt is not valid UTF-8 text: type it again")
    return prompts


def read_prompts(path):
    """The prompts of a text file, one a line; empty lines are left out.

    Raises:
        UserError: no such file, no text, or no prompt in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError:
        raise UserError(f"no prompts file {path}: give a text file with a prompt a line") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text: give a text file with a prompt a line") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one a line")
    return prompts


def notes(prompt, clip, vocabulary):
    """Lines that tell the user how the model will read a prompt; empty where there is nothing to tell.

    vocabulary: a set of lower-case words of the training captions; empty: unknown, nothing is said of words.
    """
    lines = []
    tokens = clip.num_tokens(prompt)
    if tokens is not None and tokens > clip.context_length:
        lines.append(f"the prompt has {tokens} tokens and is cut after {clip.context_length}: {prompt[:60]!r}...")
    if vocabulary:
        unknown = [w for w in dict.fromkeys(words_of(prompt)) if w not in vocabulary and w not in FUNCTION_WORDS]
        if unknown:
            near = dict.fromkeys(n for w in unknown for n in nearest_words(w, vocabulary))
            lines.append(
                f"this model never saw {' '.join(map(repr, unknown))}; the nearest words it knows: {', '.join(near)}"
            )
    return lines


def nearest_words(word, vocabulary, count=3):
    """The known words spelt most like `word`, at least one."""
    close = difflib.get_close_matches(word, vocabulary, n=count, cutoff=0.6)
    return close or difflib.get_close_matches(word, vocabulary, n=1, cutoff=0.0)
