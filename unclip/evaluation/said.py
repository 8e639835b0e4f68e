"""Do pictures do what a word of their prompt says? The word is read off them as off training pictures, but with no box to
say where the thing is: the middle of the picture counts."""

import numpy as np

from ..data.attributes import WORDS, read_photo
from ..data.captions import PLAIN_TEMPLATES, ClassCaptions
from ..errors import UserError
from .bootstrap import mean_figure
from .pictures import Brief

KINDS = ("colour", "photo")  # size and place need a box


def checked_words(texts):
    """Words that can be read off a picture alone, as (kind, word) pairs.

    Raises:
        UserError: another word.
    """
    kinds = {word: kind for kind in KINDS for word in WORDS[kind]}
    for word in texts:
        if word not in kinds:
            raise UserError(f"--say {word}: no such reading; choose {', '.join(kinds)}")
    return [(kinds[word], word) for word in texts]


def said_figures(model, names, no_article, words, num_images, seed, settings):
    """{word: {"with": Figure, "without": Figure}}: the share of pictures in which the word is read, with it in the
    prompt and without.

    Args:
        names: concepts, over which the pictures go evenly; no_article: those without an article.
        words: as from `checked_words`; num_images: a word, rounded up to as many for each concept.
    """
    captions = ClassCaptions([[name] for name in names], [[] for _ in names], no_article=list(no_article))

    def drawn(said):
        brief = Brief([captions.caption(name, PLAIN_TEMPLATES[0], said) for name in names])
        pictures = brief.draw(model, num_images, seed, settings, " ".join(said.values()) or "without the word")
        return [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in pictures.images]

    def share(pictures, kind, word):
        return mean_figure([read_photo(image)[kind] == word for image in pictures], seed)

    plain = drawn({}) if words else []
    return {
        word: {"with": share(drawn({kind: word}), kind, word), "without": share(plain, kind, word)} for kind, word in words
    }
