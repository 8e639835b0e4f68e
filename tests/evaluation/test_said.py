import pytest
import torch

from unclip.errors import UserError
from unclip.evaluation.said import checked_words, said_figures

COLOURS = {"red": (220, 20, 30), "blue": (20, 60, 200), "plain": (30, 150, 40)}


class Painter:
    """A model that paints what is said, half the time; all else is green."""

    def sample_each(self, jobs, settings, image_embed=None, callback=None):
        self.prompts = [prompt for prompt, _ in jobs]
        paints = [next((c for c in ("red", "blue") if f" {c} " in p), "plain") if k % 2 else "plain" for k, p in enumerate(self.prompts)]
        pixels = torch.tensor([COLOURS[p] for p in paints])[:, :, None, None].expand(-1, -1, 8, 8)
        return pixels / 127.5 - 1


def test_the_share_is_that_of_pictures_in_which_the_word_is_seen():
    painter = Painter()
    figures = said_figures(painter, ["dog", "sunglasses"], ["sunglasses"], checked_words(["red", "blue"]), 8, 0, None)
    for word in ("red", "blue"):
        assert figures[word]["with"].value == 0.5 and figures[word]["without"].value == 0
        assert figures[word]["with"].num_samples == 8
    assert painter.prompts[0] == "a photo of a blue dog" and painter.prompts[-1] == "a photo of blue sunglasses"


def test_a_word_that_is_there_anyway_gains_nothing():
    figures = said_figures(Painter(), ["dog"], [], checked_words(["green"]), 6, 0, None)
    assert figures["green"]["with"].value == figures["green"]["without"].value == 1


def test_light_is_said_of_the_photo():
    painter = Painter()
    said_figures(painter, ["dog"], [], checked_words(["black and white"]), 2, 0, None)
    assert painter.prompts == ["a black and white photo of a dog"] * 2


def test_words_that_cannot_be_read_off_a_picture_alone():
    with pytest.raises(UserError, match="close-up"):
        checked_words(["red", "close-up"])
