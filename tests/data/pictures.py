"""Small pictures and shards for the tests."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(number, size=8):
    """An RGB picture that is its number's own, a horizontal ramp, so that its mirror image differs."""
    ramp = np.linspace(0, 200, size, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (size, 1)), np.full((size, size), number % 256), np.full((size, size), 7)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(number, size=8):
    return encoded(picture(number, size))


def write_tar(path, files):
    """A tar of (name, bytes) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def captioned_tar(path, numbers):
    """A captioned shard as img2dataset writes it: KEY.png, KEY.txt, KEY.json; picture n has the caption 'picture n'."""
    files = []
    for n in numbers:
        files += [(f"{n:04d}.png", png(n)), (f"{n:04d}.txt", f"picture {n}".encode()), (f"{n:04d}.json", b"{}")]
    return write_tar(path, files)


class Lines(list):
    """Collects what is said."""

    __call__ = list.append
