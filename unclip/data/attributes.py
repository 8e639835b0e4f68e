"""What can be read truthfully off a picture and the box of its thing: colour, light, size, place.

Each reading is a word, or nothing where the picture does not say it clearly: a caption may then stay silent.
"""

import numpy as np
from PIL import Image

# Readings and their words; captions.py says how each goes into a caption.
WORDS = {
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"),
    "photo": ("black and white", "dark", "bright"),
    "size": ("close-up", "small"),
    "place": ("left", "right"),
}
CLEAR_SHARE, CLEAR_LEAD = 0.5, 2.0  # of the pixels, and how many times the next colour
INNER = 0.7  # of a box's sides: its corners are mostly what stands behind the thing
BACKGROUND = 0.1  # share of the picture outside the box from which on its colour counts
COLOURLESS = 6  # mean difference of the channels, of 255, below which a photograph counts as black and white
DARK, BRIGHT = 60, 195  # mean luminance, of 255
CLOSE_UP, SMALL = 0.9, 0.12  # share of the picture that the box takes
LEFT, RIGHT = 0.36, 0.64  # where the middle of the box is, of the width


def read_attributes(image, box):
    """The readings of a picture: {"colour": "red", "place": "left", ...}, of `WORDS`; what is unclear is left out.

    Args:
        image: an RGB PIL image.
        box: (x0, y0, x1, y1) in pixels, x1 and y1 the last ones inside: where the thing is.
    """
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    x1, y1 = x1 + 1, y1 + 1
    share, middle = (x1 - x0) * (y1 - y0) / (width * height), (x0 + x1) / (2 * width)
    readings = read_photo(pixels, (x0, y0, x1, y1))
    if readings["colour"]:
        behind = np.ones((height, width), dtype=bool)
        behind[y0:y1, x0:x1] = False
        if behind.sum() >= BACKGROUND * behind.size and colour_of(pixels[behind][None]) == readings["colour"]:
            readings["colour"] = None  # a white bird's box holds more sky than bird
    readings["size"] = "close-up" if share >= CLOSE_UP else "small" if share <= SMALL else None
    readings["place"] = "left" if middle <= LEFT else "right" if middle >= RIGHT else None
    return {key: word for key, word in readings.items() if word}


def read_photo(pixels, box=None):
    """Light and colour of uint8 (H, W, 3), each a word or None; box: where the thing is, None: everywhere.

    Black and white photographs have no colours.
    """
    photo = photo_of(pixels)
    return {"photo": photo, "colour": None if photo == "black and white" else colour_of(inner(pixels, box))}


def mirrored(readings):
    """The readings of the mirror image."""
    swap = {"left": "right", "right": "left"}
    return {**readings, **({"place": swap[readings["place"]]} if "place" in readings else {})}


def checked(readings):
    """Readings from a file. Raises ValueError where they are none of `WORDS`."""
    for key, word in readings.items():
        if word not in WORDS.get(key, ()):
            raise ValueError(f"its reading {key}: {word} is unknown")
    return readings


def photo_of(pixels):
    """Black and white, dark, bright, or None, for uint8 (H, W, 3)."""
    values = pixels.astype(np.float32)
    if (values.max(2) - values.min(2)).mean() < COLOURLESS:
        return "black and white"
    luminance = (values @ np.array([0.299, 0.587, 0.114], dtype=np.float32)).mean()
    return "dark" if luminance < DARK else "bright" if luminance > BRIGHT else None


def inner(pixels, box=None):
    """The middle of a box, or of the whole picture, where its thing fills it."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box or (0, 0, width, height)
    dx, dy = (x1 - x0) * (1 - INNER) / 2, (y1 - y0) * (1 - INNER) / 2
    left, top = int(x0 + dx), int(y0 + dy)
    return pixels[top : max(top + 1, round(y1 - dy)), left : max(left + 1, round(x1 - dx))]


def colour_of(pixels):
    """The colour that most pixels of uint8 (H, W, 3) have, where it leads clearly; None where it does not."""
    counts = np.bincount(colours(pixels).ravel(), minlength=len(WORDS["colour"]))
    second, first = np.sort(counts)[-2:]
    if first < CLEAR_SHARE * counts.sum() or first < CLEAR_LEAD * second:
        return None
    return WORDS["colour"][int(counts.argmax())]


def colours(pixels):
    """The name of each pixel's colour as a place in WORDS["colour"]: uint8 (H, W, 3) -> (H, W). By hue, saturation, value.

    The eleven basic colour terms of English (Berlin & Kay 1969), each a range of HSV.
    """
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV")).astype(np.float32)
    hue, saturation, value = hsv[..., 0] * 360 / 256, hsv[..., 1] / 255, hsv[..., 2] / 255
    place = {name: k for k, name in enumerate(WORDS["colour"])}
    edges = np.array([15, 42, 70, 165, 255, 290, 345])
    around = np.array([place[n] for n in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "red")])
    named = around[np.searchsorted(edges, hue, side="right")]
    pale = value * saturation < 0.4
    named = np.where((hue >= 8) & (hue < 58) & (pale | ((hue < 42) & (value < 0.6))), place["brown"], named)
    named = np.where(((hue < 8) | (hue >= 345)) & (saturation < 0.5), place["pink"], named)  # pale red
    named = np.where(saturation < 0.15, place["grey"], named)
    named = np.where((saturation < 0.15) & (value > 0.8), place["white"], named)
    return np.where(value < 0.2, place["black"], named)
