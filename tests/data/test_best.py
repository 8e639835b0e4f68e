import math

import pytest
import torch

from unclip.data.best import best_rows, clip_scores
from unclip.data.captions import ClassCaptions
from unclip.data.table import Table

from .clips import RampText


class CompassClip:
    """A caption points where its first compass word does, and 'here' nowhere in particular; lengths say nothing."""

    device, embed_dim = torch.device("cpu"), 2
    angles = {"north": 90.0, "east": 0.0, "west": 180.0}

    def encode_text(self, captions):
        words = [next(w for w in caption.split() if w in self.angles) for caption in captions]
        angles = torch.tensor([math.radians(self.angles[w]) for w in words])
        lengths = 1 + torch.arange(len(captions))
        return RampText(lengths[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1))


def pointing(degrees, **texts):
    """A table of pictures whose embeddings, of different lengths, point to these angles."""
    angles, n = torch.tensor(degrees).deg2rad(), len(degrees)
    embed = (3 + torch.arange(n))[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    images = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
    keys = [str(d) for d in degrees]
    return Table(images, keys, ["0.tar"] * n, image_embed=torch.stack([embed, -embed], dim=1).half(), **texts)


@pytest.fixture
def labelled():
    captions = ClassCaptions(names=[["north"], ["east", "west"]], nouns=[[], []], templates=["a photo of {a}", "{}"])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    return pointing([90.0, 60.0, -90.0, 45.0, 10.0, 170.0], labels=labels, class_captions=captions)


def test_a_score_is_the_cosine_to_the_caption_of_the_picture_itself(labelled):
    expected = [math.cos(math.radians(d)) for d in (0, 30, 180, 45, 10, 170)]  # by a class's first name
    assert clip_scores(labelled, CompassClip()).tolist() == pytest.approx(expected, abs=1e-3)


def test_several_captions_count_alike_whatever_the_lengths_of_their_embeddings():
    table = pointing([45.0, 90.0, 0.0], captions=[["go north", "go east"], ["north"], ["north", "west"]])
    expected = [1.0, 1.0, math.cos(math.radians(135))]
    assert clip_scores(table, CompassClip()).tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("share, rows", [(1.0, [0, 1, 2, 3, 4, 5]), (0.67, [0, 1, 3, 4]), (0.1, [0, 4])])
def test_each_class_keeps_its_share_and_one_picture_at_least(labelled, share, rows):
    assert best_rows(labelled, CompassClip(), share).tolist() == rows


def test_captioned_pictures_compete_with_one_another():
    table = pointing([90.0, 170.0, 20.0, 100.0], captions=[["north"], ["east"], ["east"], ["north"]])
    assert best_rows(table, CompassClip(), 0.5).tolist() == [0, 3]
