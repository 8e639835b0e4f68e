"""A picture cut to the square around its thing, so that it is seen large and in the middle, and alike from picture to
picture: a small model learns the form of what is framed alike far sooner (Karras et al. 2018, appendix C, of faces)."""

from PIL import Image

from .skipped import Bad

LEAST = 0.4  # of the picture's shorter side, the box's longer one: what is smaller would be a few pixels enlarged
LARGEST_ENLARGING = 2  # times


def cut_around(image, box, times):
    """(the picture cut to a square `times` as large as its box and enlarged to its own shorter side, the box in it).

    image: RGB PIL; box: (x0, y0, x1, y1) in pixels, the last ones inside. The square lies inside the picture, nowhere enlarged
    more than LARGEST_ENLARGING times; where it would be larger than the picture, the picture's own middle or,
    of a square one, the picture itself.

    Raises:
        Bad: the box is missing, or less than LEAST of the picture.
    """
    if box is None:
        raise Bad("no box", "nothing says where its thing is")
    short = min(image.size)
    x0, y0, x1, y1 = box[0], box[1], box[2] + 1, box[3] + 1
    long = max(x1 - x0, y1 - y0)
    if long < LEAST * short:
        raise Bad("small thing", f"its thing is {long} pixels of {short}")
    side = min(max(round(times * long), -(-short // LARGEST_ENLARGING)), short)
    if image.size == (side, side):
        return image, box
    left, top = (clamp(round((a + b - side) / 2), 0, whole - side) for a, b, whole in zip((x0, y0), (x1, y1), image.size))
    scale = short / side
    inside = [clamp(v - start, 0, side) * scale for v, start in zip((x0, y0, x1, y1), (left, top, left, top))]
    new_box = (int(inside[0]), int(inside[1]), int(inside[2]) - 1, int(inside[3]) - 1)
    return image.resize((short, short), Image.Resampling.BICUBIC, (left, top, left + side, top + side)), new_box


def clamp(value, low, high):
    return min(max(value, low), high)
