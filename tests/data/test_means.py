"""Mean embeddings of captions against slow loops, and what they must not depend on."""

import pytest
import torch

from unclip.data.captions import ClassCaptions
from unclip.data.means import STRESS, MeanEmbeddings
from unclip.data.table import Table
from unclip.errors import UserError

CAPTIONS = ClassCaptions(
    names=[["poodle"], ["beagle", "hound"], ["tabby"], ["unseen"]], nouns=[["dog", "animal"], ["dog", "animal"], ["animal"], ["animal"]],
)  # fmt: skip
LABELS = [0, 1, 1, 1, 2, 2, 0, 1]
READINGS = [{"colour": "red"}, {}, {"colour": "red", "photo": "dark"}, {"photo": "dark"}, {}, {"colour": "red"}, {}, {}]
EMBEDS = torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(0)).half()
UNIT = torch.nn.functional.normalize(EMBEDS[:, 0].float(), dim=-1)  # mirror images aside


def table(rows):
    rows = torch.tensor(rows)
    images = torch.zeros(len(rows), 3, 2, 2, dtype=torch.uint8)
    readings = [READINGS[r] for r in rows.tolist()]
    keys = [str(r) for r in rows.tolist()]
    return Table(
        images, keys, ["0.tar"] * len(rows), torch.tensor(LABELS)[rows], class_captions=CAPTIONS, readings=readings,
        image_embed=EMBEDS[rows],
    )  # fmt: skip


def means(rows, concept, said=None):
    return MeanEmbeddings(table(rows))({"concept": [concept], "said": [said or {}]})[0]


def of_class(label):
    return torch.stack([e for e, own in zip(UNIT, LABELS) if own == label]).mean(0)


@pytest.mark.parametrize("concept, labels", [
    ("poodle", [0]), ("hound", [1]), ("dog", [0, 1]), ("animal", [0, 1, 2]),
])  # fmt: skip
def test_a_noun_is_the_mean_of_its_classes_whatever_their_numbers(concept, labels):
    torch.testing.assert_close(means(range(8), concept), torch.stack([of_class(k) for k in labels]).mean(0))


def test_a_class_that_comes_more_often_counts_no_more():
    torch.testing.assert_close(means([*range(8), 4, 5, 4, 5], "animal"), means(range(8), "animal"))


def test_readings_move_it_by_how_their_pictures_differ_from_their_classes():
    red = torch.stack([UNIT[r] - of_class(LABELS[r]) for r in (0, 2, 5)]).mean(0)
    dark = torch.stack([UNIT[r] - of_class(LABELS[r]) for r in (2, 3)]).mean(0)
    dog = torch.stack([of_class(0), of_class(1)]).mean(0)
    torch.testing.assert_close(means(range(8), "dog", {"colour": "red", "photo": "dark"}), dog + STRESS * (red + dark))


def test_what_no_picture_shows_has_none():
    assert not means(range(8), "unseen", {"colour": "red"}).any() and not means([0, 1], "tabby").any()


def test_captions_keep_their_order():
    batch = {"concept": ["tabby", "dog", "tabby"], "said": [{}, {"colour": "red"}, {"photo": "dark"}]}
    rows = MeanEmbeddings(table(range(8)))(batch)
    alone = [means(range(8), concept, said) for concept, said in zip(*batch.values())]
    torch.testing.assert_close(rows, torch.stack(alone))


def test_sets_without_labels_are_refused():
    captioned = Table(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), ["0"], ["0.tar"], captions=[["a dog"]], image_embed=EMBEDS[:1])
    for refused in (captioned, None):
        with pytest.raises(UserError, match="for labelled sets in memory"):
            MeanEmbeddings(refused)
