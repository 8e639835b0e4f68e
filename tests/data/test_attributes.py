import colorsys

import numpy as np
import pytest
from PIL import Image

from unclip.data.attributes import WORDS, colour_of, colours, mirrored, photo_of, read_attributes

WHOLE = (0, 0, 63, 63)


def picture(colour, size=(64, 64)):
    return Image.new("RGB", size, colour)


def with_box(background, colour, box):
    image = picture(background)
    image.paste(Image.new("RGB", (box[2] - box[0] + 1, box[3] - box[1] + 1), colour), box[:2])
    return image


@pytest.mark.parametrize("rgb, name", [
    ((220, 20, 30), "red"), ((139, 0, 0), "red"), ((255, 140, 0), "orange"), ((250, 220, 30), "yellow"), ((255, 255, 0), "yellow"),
    ((30, 150, 40), "green"), ((0, 100, 0), "green"), ((20, 60, 200), "blue"), ((135, 206, 235), "blue"), ((110, 30, 160), "purple"),
    ((255, 105, 180), "pink"), ((255, 182, 193), "pink"), ((101, 67, 33), "brown"), ((180, 165, 120), "brown"), ((139, 69, 19), "brown"), ((10, 10, 12), "black"),
    ((250, 250, 248), "white"), ((128, 128, 130), "grey"),
])  # fmt: skip
def test_colours_have_the_names_people_give_them(rgb, name):
    """CSS's own names for these values, or plain cases."""
    assert colour_of(np.asarray(picture(rgb))) == name


def test_every_pixel_has_a_colour():
    values = [colorsys.hsv_to_rgb(h / 60, s / 10, v / 10) for h in range(60) for s in range(11) for v in range(11)]
    pixels = (np.array(values) * 255).round().astype(np.uint8)[None]
    places = colours(pixels)
    assert places.shape == pixels.shape[:2] and set(places.ravel()) == set(range(len(WORDS["colour"])))


@pytest.mark.parametrize("share, named", [(0.9, "red"), (0.65, None), (0.5, None), (0.1, "blue")])
def test_a_colour_that_does_not_lead_clearly_is_not_named(share, named):
    pixels = np.zeros((10, 100, 3), dtype=np.uint8)
    pixels[:, : int(share * 100)], pixels[:, int(share * 100) :] = (220, 20, 30), (20, 60, 200)
    assert colour_of(pixels) == named


def test_the_colour_is_the_things_and_not_the_backgrounds():
    image = with_box((30, 150, 40), (220, 20, 30), (20, 20, 43, 43))
    assert read_attributes(image, (20, 20, 43, 43))["colour"] == "red"


def test_a_thing_as_the_background_is_not_named():
    """A bird that flies takes less of its box than the sky does."""
    image = with_box((135, 206, 235), (250, 250, 250), (28, 28, 36, 36))
    assert "colour" not in read_attributes(image, (16, 16, 48, 48))


def test_grey_photographs_have_no_colours():
    readings = read_attributes(picture((120, 120, 120)), WHOLE)
    assert readings["photo"] == "black and white" and "colour" not in readings


@pytest.mark.parametrize("rgb, word", [((30, 20, 60), "dark"), ((230, 235, 200), "bright"), ((120, 90, 140), None)])
def test_light(rgb, word):
    assert photo_of(np.asarray(picture(rgb))) == word


@pytest.mark.parametrize("box, size, place", [
    (WHOLE, "close-up", None), ((1, 1, 62, 62), "close-up", None), ((10, 10, 50, 50), None, None), ((24, 24, 40, 40), "small", None),
    ((0, 10, 30, 60), None, "left"), ((33, 10, 63, 60), None, "right"), ((2, 2, 9, 9), "small", "left"),
])  # fmt: skip
def test_size_and_place(box, size, place):
    readings = read_attributes(picture((200, 120, 90)), box)
    assert (readings.get("size"), readings.get("place")) == (size, place)


def test_the_mirror_image_swaps_left_and_right_alone():
    """As reading the mirrored picture gives it."""
    box = (2, 20, 20, 50)
    image = with_box((200, 220, 240), (250, 220, 30), box)
    readings = read_attributes(image, box)
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert readings["place"] == "left" and mirrored(readings) == read_attributes(flipped, (63 - 20, 20, 63 - 2, 50))
    assert mirrored({"colour": "red"}) == {"colour": "red"}


def test_boxes_of_a_pixel():
    box = (5, 5, 5, 5)
    assert read_attributes(with_box((30, 150, 40), (220, 20, 30), box), box)["colour"] == "red"
