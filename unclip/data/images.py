"""Pictures to tensors and back. Everywhere a picture is uint8 (3, H, W) in 0..255 or float (3, H, W) in [-1, 1]."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import UserError, first_line

MAX_PIXELS = 100_000_000  # of a picture, wherever it comes from: 10,000 x 10,000. A larger one is not unpacked
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # of IMAGE_SUFFIXES; for others Pillow may run programs
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def decode(content, size, squash=False):
    """Encoded bytes -> uint8 tensor (3, size, size): RGB, resized (antialiased), cropped to the centre square.

    squash: resize the whole picture to a square instead, as `FrozenCLIP.squash` says.

    Raises some Exception where they are no picture, a damaged one, or one of more than MAX_PIXELS.
    """
    return decode_with_side(content, size, squash)[0]


def decode_with_side(content, size, squash=False):
    """What `decode` gives, and the shorter side of the picture as it was encoded."""
    return decode_opened(opened(io.BytesIO(content)), size, squash)


def decode_opened(image, size, squash=False):
    """The same of a picture that `opened` gave."""
    side = min(image.size)
    image.draft("RGB", (size, size))
    image = to_rgb(image)
    return to_uint8(image.resize((size, size), Image.Resampling.BICUBIC) if squash else square(image, size)), side


def opened(file):
    """A PIL image of a path or a binary file, of which no more than the head is read.

    Every picture comes through here: those that a user names or uploads, and those of shards, zips and folders.

    Raises:
        Image.DecompressionBombError: it has more than MAX_PIXELS. OSError, or another Exception: it is no picture of FORMATS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is ours
        image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise Image.DecompressionBombError(f"a picture of {width}x{height} pixels: {MAX_PIXELS:,} at most are unpacked")
    return image


def read_image(path, background="white"):
    """A picture file as an RGB PIL image (see `to_rgb`).

    Raises:
        UserError: no such file, no picture in it, or one of more than MAX_PIXELS, which is not unpacked.
    """
    if not Path(path).is_file():
        raise UserError(f"no picture file {path}")
    try:
        with opened(path) as image:
            return to_rgb(image, background)
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"the picture {path} is enormous: shrink it to {MAX_PIXELS:,} pixels at most") from None
    except Exception as error:  # PIL's many ways to fail on a broken file
        raise UserError(f"cannot read the picture {path} ({first_line(error)}): give a PNG, JPEG or WebP file") from None


def image_files(folder, other=""):
    """The paths of a folder's picture files, sorted by name. Raises UserError where there is no folder, or none in it.

    other: what else the folder might hold, for the error's line, such as ", or shards".
    """
    if not Path(folder).is_dir():
        raise UserError(f"no folder {folder}: name one with pictures{other}")
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"no pictures in {folder}: it needs files such as .png or .jpg{other}")
    return paths


def to_rgb(image, background="white"):
    """Any PIL image as RGB: turned as its EXIF says, 16-bit grey scaled to 8, what is transparent laid on a background."""
    try:
        image = ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError):
        pass  # a damaged EXIF block says nothing about the picture
    if image.mode.startswith("I"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def square(image, size):
    """A PIL image, resized so that its shorter side is `size`, and cropped to the centre square."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    resample = Image.Resampling.BOX if side % size == 0 else Image.Resampling.BICUBIC
    return image.resize((size, size), resample, box=(left, top, left + side, top + side))


def to_uint8(image):
    """RGB PIL image -> uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def to_float(images):
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images):
    """Float in [-1, 1] (clamped) -> uint8 in 0..255, as a file holds it."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(images):
    """Float tensor (B, 3, H, W) in [-1, 1] (clamped) -> list of PIL images."""
    return [Image.fromarray(a) for a in to_bytes(images).permute(0, 2, 3, 1).cpu().numpy()]


def grid(images, columns, scale=1, gap=2):
    """PIL images of one size in rows of `columns`, each enlarged by a whole number, on white."""
    width, height = (side * scale for side in images[0].size)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for k, image in enumerate(images):
        row, column = divmod(k, columns)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (column * (width + gap), row * (height + gap)))
    return sheet
