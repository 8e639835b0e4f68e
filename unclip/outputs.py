"""Files of pictures: their names, and how they are written."""

import json
import re

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .files import new_file

SIDE = 128  # pictures smaller than this are enlarged in sheets and animations
NAME_BYTES = 60
FRAME_MS, LAST_FRAME_MS = 120, 1200


def enlargement(image):
    """By which whole number a PIL image is enlarged to be seen."""
    return max(1, SIDE // image.width)


def write_gif(frames, path):
    """Write PIL images as an animation that begins anew, the first and the last frame held."""
    k = enlargement(frames[0])
    frames = [f.resize((k * f.width, k * f.height), Image.Resampling.NEAREST) for f in frames]
    durations = [LAST_FRAME_MS, *[FRAME_MS] * (len(frames) - 2), LAST_FRAME_MS]
    with new_file(path) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def write_png(image, path, /, **facts):
    """Write a PNG whole or not at all; facts become PNG text (those that are no strings, as JSON)."""
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    with new_file(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)


def file_names(prompts):
    """{prompt: its name in file names}; prompts that read the same there are numbered."""
    names = {}
    for prompt in dict.fromkeys(prompts):
        name, k = slug(prompt), 1
        while name in names.values():
            k += 1
            name = f"{slug(prompt)}-v{k}"
        names[prompt] = name
    return names


def slug(prompt):
    """A prompt as a file name: lower case words joined by '-', at most NAME_BYTES long."""
    name = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return name.encode("utf-8")[:NAME_BYTES].decode("utf-8", "ignore").strip("-") or "picture"
