"""The contact sheet shows each prompt's pictures, whatever the prompts and their number."""

import numpy as np
import pytest
import torch

from unclip.evaluation.pictures import Pictures
from unclip.evaluation.report import contact_sheet, evenly


def coloured(count):
    """8x8 pictures of one colour each, all different, none of them grey."""
    colours = torch.tensor([(k % 100 + 100, k // 100 * 20, 255) for k in range(count)], dtype=torch.uint8)
    return colours[:, :, None, None].expand(count, 3, 8, 8).contiguous()


def places(sheet, count):
    """{number of a picture: (x, y) of its left upper corner on a sheet}."""
    number = {tuple(colour): k for k, colour in enumerate(coloured(count)[:, :, 0, 0].tolist())}
    pixels = np.asarray(sheet)
    colours, first = np.unique(pixels.reshape(-1, 3), axis=0, return_index=True)
    corners = ((tuple(colour), divmod(int(place), pixels.shape[1])) for colour, place in zip(colours.tolist(), first))
    return {number[colour]: (x, y) for colour, (y, x) in corners if colour in number}


def test_a_row_a_prompt_even_if_they_begin_alike():
    prompts = [f"a photograph of a very long and dull beginning, number {k // 2}" for k in range(48)]
    found = places(contact_sheet(Pictures(coloured(48), prompts=prompts)), 48)
    assert len(found) == 48
    for k in range(0, 48, 2):
        assert found[k][1] == found[k + 1][1] and 64 <= found[k + 1][0] - found[k][0] < 70
    assert len({found[k] for k in range(48)}) == 48


@pytest.mark.parametrize("count", [30, 200, 500])
def test_one_picture_a_prompt(count):
    """All of them where they have room, else evenly picked ones; each in a row of its own, beside its prompt."""
    sheet = contact_sheet(Pictures(coloured(count), prompts=[f"thing {k}" for k in range(count)]))
    found = places(sheet, count)
    assert len(found) == min(count, 200) and max(found) > 0.98 * (count - 1)
    corners = sorted(found.values())
    for (x0, y0), (x1, y1) in zip(corners, corners[1:]):
        assert y1 >= y0 + 64 or x1 > x0 + 64 + 20  # a title lies between


def test_pictures_without_prompts():
    found = places(contact_sheet(Pictures(coloured(25))), 25)
    assert len(found) == 25 and found[9][1] == found[0][1] < found[10][1] == found[19][1] < found[20][1]


def test_evenly():
    assert evenly(list("abc"), 5) == list("abc")
    assert len(set(evenly(list(range(41)), 40))) == 40
    assert evenly(list(range(10)), 5) == [0, 2, 4, 6, 8]
