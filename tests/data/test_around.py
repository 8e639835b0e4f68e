"""Pictures cut to the square around their thing."""

import numpy as np
import pytest
from PIL import Image

from unclip.data.around import cut_around
from unclip.data.skipped import Bad


def picture(box, size=(64, 64)):
    """Grey, with a red thing that fills a box (its last pixels inside)."""
    pixels = np.full((size[1], size[0], 3), 120, dtype=np.uint8)
    pixels[box[1] : box[3] + 1, box[0] : box[2] + 1] = (220, 20, 20)
    return Image.fromarray(pixels)


def red(image):
    """The box of what is red."""
    pixels = np.asarray(image).astype(int)
    ys, xs = np.nonzero(pixels[..., 0] - pixels[..., 1] > 100)
    return xs.min(), ys.min(), xs.max(), ys.max()


@pytest.mark.parametrize("box", [(16, 16, 47, 47), (0, 0, 31, 39), (30, 20, 63, 50), (10, 40, 49, 63)])
def test_the_thing_is_larger_by_what_the_square_is_smaller(box):
    cut, inside = cut_around(picture(box), box, 1.25)
    scale = 64 / round(1.25 * max(box[2] - box[0] + 1, box[3] - box[1] + 1))
    assert cut.size == (64, 64)
    seen = red(cut)
    assert np.allclose(seen, inside, atol=1)
    for before, after in ((box[2] - box[0], seen[2] - seen[0]), (box[3] - box[1], seen[3] - seen[1])):
        assert abs((before + 1) * scale - (after + 1)) <= 1.5


def test_what_stands_free_comes_to_the_middle():
    box = (20, 24, 51, 43)
    x0, y0, x1, y1 = red(cut_around(picture(box), box, 1.5)[0])
    assert abs((x0 + x1) / 2 - 31.5) <= 1 and abs((y0 + y1) / 2 - 31.5) <= 1


def test_a_square_that_would_be_larger_is_the_picture_itself():
    image = picture((2, 3, 60, 61))
    cut, box = cut_around(image, (2, 3, 60, 61), 1.25)
    assert cut is image and box == (2, 3, 60, 61)


def test_of_a_wide_picture_no_more_than_its_height():
    cut, box = cut_around(picture((60, 10, 110, 60), (200, 64)), (60, 10, 110, 60), 2)
    assert cut.size == (64, 64) and abs((box[0] + box[2]) / 2 - 31.5) <= 1


def test_nothing_is_enlarged_more_than_twice():
    cut, box = cut_around(picture((20, 20, 45, 22)), (20, 20, 45, 22), 1)
    assert box[2] - box[0] + 1 == 52 and box[3] - box[1] + 1 == 6


@pytest.mark.parametrize("box, kind", [(None, "no box"), ((20, 20, 40, 44), "small thing"), ((5, 5, 5, 5), "small thing")])
def test_what_cannot_be_cut_out(box, kind):
    with pytest.raises(Bad) as raised:
        cut_around(picture((0, 0, 63, 63)), box, 1.25)
    assert raised.value.kind == kind
