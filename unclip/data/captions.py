"""Captions of labelled pictures: a name of the class or a common noun above it, put into a template.

In a template `{}` stands for the name and `{a}` for the name with its article ("a dog", "an ox", "sunglasses"). What was
read off a picture (see attributes.py) goes into some of its captions: "a dark photo of a small red car on the left".
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..files import read_json, read_lines
from .attributes import WORDS

VOWEL_SOUND = re.compile(r"(?!eu|ew|uni(?!n|m)|us[eu]|ut[ei]|uku|onc?e\b)[aeiou]|hour|honest|heir|x-?ray")
PLAIN_TEMPLATES = ["a photo of {a}"]
SAID = 0.7
PHOTO_WORDS = ("black and white", "dark", "bright", "close-up")  # they are of the photograph, not of the thing


class Caption(NamedTuple):
    """A caption, the name or noun in it, and the readings that it says ({"colour": "red"})."""

    text: str
    concept: str
    said: dict


@dataclass
class ClassCaptions:
    """How the classes of a labelled set are called.

    names: a list a class, the first being the one shown; nouns: a list a class, possibly empty.
    noun_share: the share of captions that use a noun where the class has one. reading_share: the share that says what
    was read off the picture, where anything was; such a caption says each reading with a chance of SAID.
    """

    names: list
    nouns: list
    templates: list = field(default_factory=lambda: list(PLAIN_TEMPLATES))
    no_article: list = field(default_factory=list)
    noun_share: float = 0.35
    reading_share: float = 0.0

    def concepts(self, label):
        """Every name and noun of a class."""
        return self.names[label] + self.nouns[label]

    def all_concepts(self):
        """Every name and noun of the set, once, in order of first appearance."""
        return list(dict.fromkeys(c for label in range(len(self.names)) for c in self.concepts(label)))

    def draw(self, label, rng, readings=None):
        """A Caption for a picture of a class.

        The first name takes half of the names' share; `rng` is a `random.Random`. readings: as `read_attributes` gives
        them, or None.
        """
        names, nouns = self.names[label], self.nouns[label]
        if nouns and rng.random() < self.noun_share:
            concept = rng.choice(nouns)
        elif len(names) == 1 or rng.random() < 0.5:
            concept = names[0]
        else:
            concept = rng.choice(names[1:])
        template, said = rng.choice(self.templates), {}
        if readings and rng.random() < self.reading_share:
            said = {key: word for key, word in readings.items() if rng.random() < SAID}
        said = sayable(said, concept)
        return Caption(self.caption(concept, template, said), concept, said)

    def caption(self, concept, template, said=None):
        """A template filled with a concept and with the readings that are to be said.

        Light and nearness need a photo to be said of, and take the template's place; the rest goes beside the name.
        """
        said = sayable(said or {}, concept)
        kind = [said[key] for key in ("photo", "size") if said.get(key) in PHOTO_WORDS]
        if kind:
            template = f"{with_article(' '.join(kind))} photo of {{a}}"
        adjectives = [said[key] for key in ("size", "colour") if key in said and said[key] not in PHOTO_WORDS]
        place = f" on the {said['place']}" if "place" in said else ""
        phrase = " ".join([*adjectives, concept])
        article = phrase if concept in self.no_article else with_article(phrase)
        return template.replace("{a}", article + place).replace("{}", phrase + place)

    def words(self):
        """Every word that a caption of this set can hold, in lower case."""
        texts = [self.caption(c, t) for c in self.all_concepts() for t in self.templates]
        if self.reading_share:
            texts += ["an photo of on the", *(word for words in WORDS.values() for word in words)]
        return sorted({w for text in texts for w in words_of(text)})

    def save(self, path):
        Path(path).write_text(json.dumps(vars(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def checked(self):
        """Itself. Raises ValueError where a class has no name, or a field holds something else than it should."""
        lists = [*self.names, *self.nouns, self.templates, self.no_article]
        if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists):
            raise ValueError("names, nouns and templates are lists of texts")
        if len(self.names) != len(self.nouns) or not all(self.names) or not self.templates:
            raise ValueError("a class without a name, or no template")
        if not all(isinstance(share, (int, float)) for share in (self.noun_share, self.reading_share)):
            raise ValueError("shares are numbers")
        return self

    @classmethod
    def read(cls, path, remedy):
        """What `save` wrote. Raises UserError for a damaged file, with what to do about it."""
        try:
            return cls(**read_json(path)).checked()
        except (ValueError, TypeError):
            raise UserError(f"{path} is damaged: {remedy}") from None

    @classmethod
    def of_folder(cls, folder):
        """The captions of a labelled data folder: `captions.json`, or else its `classnames.txt`.

        None for a folder without `classnames.txt`: its samples have their own captions.
        """
        folder = Path(folder)
        if not (folder / "classnames.txt").is_file():
            return None
        if (folder / "captions.json").is_file():
            return cls.read(folder / "captions.json", "prepare the data again")
        names = read_lines(folder / "classnames.txt")
        return cls(names=[[n] for n in names], nouns=[[] for _ in names])


def sayable(said, concept):
    """The readings that a name does not say by itself: no "orange orange"."""
    return {key: word for key, word in said.items() if word not in words_of(concept)}


def with_article(name, no_article=()):
    """'dog' -> 'a dog', 'ox' -> 'an ox'; names in `no_article` (plurals, stuffs) stay as they are."""
    if name in no_article:
        return name
    return f"{'an' if VOWEL_SOUND.match(name.lower()) else 'a'} {name}"


def words_of(text):
    """The words of a text in lower case, without punctuation at their ends."""
    return [w for w in (word.strip(".,;:!?\"'()").lower() for word in text.split()) if w]
