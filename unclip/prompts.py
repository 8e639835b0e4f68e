"""Reading a prompt before it is drawn: its parts and weights; empty, too long, or with words the model never saw."""

import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from .data.captions import words_of
from .errors import UserError

# Words without a picture of their own; a model need not have seen them for a prompt to be understood.
FUNCTION_WORDS = frozenset(
    "a an the of in on at by with and or to from for is are this that these those there it its some one two three "
    "my your his her our their as into over under near next beside behind very".split()
)


MAX_WEIGHT = 10.0
MAX_PROMPT = 4000  # characters; CLIP reads some hundred, and its tokenizer's time grows with the square of a word's length
MAX_UNKNOWN = 10  # words of a prompt for which a model's nearest are looked up
AND = re.compile(r"\s+AND\s+")
WEIGHTED = re.compile(r"(.*\S)\s*(?<!\\):\s*([-+]?\.?\d\S*)", re.DOTALL)  # what begins like a number after the last colon


@dataclass(frozen=True)
class Composition:
    """A prompt made of parts (strings) that count as much as their weights say; negative: led away from."""

    parts: tuple
    weights: tuple

    def __str__(self):
        """The parts that are wanted, as one caption: what those read who cannot compose."""
        return ", ".join(part for part, weight in zip(self.parts, self.weights) if weight > 0)


def parsed(prompt):
    """A prompt without weights as it is, one with weights as a `Composition`.

    "a dog:1.2" asks for a dog a little more than "a dog"; "a dog AND a beach:0.5 AND snow:-0.3" for several things at
    once. A colon that is no weight's is written with a backslash: "at 10\\:30".

    Raises:
        UserError: a weight that is no number or out of range, an empty part, nothing that is wanted, or more than MAX_PROMPT
            characters.
    """
    if len(prompt) > MAX_PROMPT:
        raise UserError(f"the prompt {prompt[:60]!r}... has {len(prompt):,} characters: write at most {MAX_PROMPT:,}")
    texts, weights = zip(*(split_weight(part) for part in AND.split(prompt)))
    texts = tuple(text.replace("\\:", ":") for text in texts)
    if weights == (None,):
        return texts[0]
    if not all(texts):
        raise UserError(f"{prompt[:60]!r} has an empty part: write something on both sides of AND, and before a weight")
    weights = tuple(1.0 if w is None else w for w in weights)
    if not any(w > 0 for w in weights):
        raise UserError(f"{prompt[:60]!r} asks for nothing: give one part a weight above 0")
    return Composition(texts, weights)


def split_weight(text):
    """"a dog:1.2" as ("a dog", 1.2), and "a dog" as ("a dog", None); "\\:" stays.

    Raises:
        UserError: what stands after the last colon begins like a number, and is none or out of range.
    """
    found = WEIGHTED.fullmatch(text.strip())
    if not found:
        return text.strip(), None
    try:
        weight = float(found[2])
    except ValueError:
        weight = math.nan
    if not abs(weight) <= MAX_WEIGHT:
        wrong = f"the weight {found[2]!r} of {found[1][:60]!r} is no number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
        raise UserError(f"{wrong}; write \\: for a colon that is no weight's")
    return found[1], weight


def plain(text, what):
    """A caption that takes no weights, read as a prompt. Raises UserError for one with weights; what: its name."""
    caption = parsed(text)
    if isinstance(caption, Composition):
        raise UserError(f"{what} {text[:60]!r} has weights, which do nothing there: leave them out")
    return caption


def checked(prompts):
    """A prompt or several as a list. Raises UserError for an empty one, or none, or a wrong weight (see `parsed`)."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise UserError('no prompt: write what to draw, e.g. "a photo of a dog"')
    if any(not isinstance(p, str) or not p.strip() for p in prompts):
        raise UserError('an empty prompt: write what to draw, e.g. "a photo of a dog"')
    if any(p.encode("utf-8", "ignore").decode("utf-8") != p for p in prompts):
        raise UserError("a prompt is not valid UTF-8 text: type it again")
    for prompt in prompts:
        parsed(prompt)
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
    lines, prompt = [], parsed(prompt)
    parts = prompt.parts if isinstance(prompt, Composition) else [prompt]
    for part in parts:
        tokens = clip.num_tokens(part)
        if tokens is not None and tokens > clip.context_length:
            lines.append(f"the prompt has {tokens} tokens and is cut after {clip.context_length}: {part[:60]!r}...")
    if vocabulary:
        words = dict.fromkeys(w for part in parts for w in words_of(part))
        unknown = [w for w in words if w not in vocabulary and w not in FUNCTION_WORDS]
        if unknown:
            unknown = unknown[:MAX_UNKNOWN]
            near = dict.fromkeys(n for w in unknown for n in nearest_words(w, vocabulary))
            lines.append(
                f"this model never saw {' '.join(map(repr, unknown))}; the nearest words it knows: {', '.join(near)}"
            )
    return lines


def nearest_words(word, vocabulary, count=3):
    """The known words spelt most like `word`, at least one."""
    close = difflib.get_close_matches(word, vocabulary, n=count, cutoff=0.6)
    return close or difflib.get_close_matches(word, vocabulary, n=1, cutoff=0.0)
