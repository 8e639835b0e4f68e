"""What `scripts/generate.py` does: prompts in, PNG files out."""

import json
import math
import re
import sys
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .cli import device_of, output_folder
from .data.images import grid
from .errors import UserError
from .files import new_file
from .pipeline import UnCLIP
from .prompts import checked, read_prompts
from .seeds import seeds_from

GRID_SIDE = 128  # pictures smaller than this are enlarged in the grid
GRID_ROWS = 32
GRID_RATIO = 1.5  # width to height, where every prompt has one picture
NAME_BYTES = 60


def generate(*, prompts, prompt_file, model_name, out, num_images, seed, device, dtype, offload, settings):
    """Draw and write pictures, and print their paths. Arguments are those of the script; settings: see `Settings`.

    The grid has a row a prompt, for the first GRID_ROWS prompts; with one picture a prompt they share rows.

    Raises:
        UserError: bad input; nothing is written.
    """
    prompts = checked([*prompts, *(read_prompts(prompt_file) if prompt_file else [])])
    if num_images < 1:
        raise UserError(f"--num-images {num_images}: ask for at least 1")
    seeds, out = seeds_from(seed, num_images), output_folder(out)
    model = UnCLIP.from_pretrained(model_name, device=device_of(device), dtype=getattr(torch, dtype), offload=offload)
    settings = model.used(model.settings(**settings))
    facts = {"model": str(model_name), "dtype": dtype, "settings": settings}
    for prompt in prompts:
        for note in model.notes(prompt):
            print(f"note: {note}", file=sys.stderr)
    names = file_names(prompts)
    shown = []
    with tqdm(total=len(prompts) * num_images, unit="picture", unit_scale=True, desc="drawing", leave=False) as bar:
        for row, prompt in enumerate(prompts):

            def progress(step, row=row):
                bar.update((row + step.share) * num_images - bar.n)

            images = model(prompt, num_images=num_images, seed=seed, callback=progress, **settings)
            paths = [out / f"{names[prompt]}-{s}.png" for s in seeds]
            for image, path, s in zip(images, paths, seeds):
                write_png(image, path, prompt=prompt, seed=s, **facts)
            bar.write("\n".join(map(str, paths)), file=sys.stdout)
            if row < GRID_ROWS:
                shown += images
    columns = num_images if num_images > 1 else round(math.sqrt(GRID_RATIO * len(shown)))
    sheet = grid(shown, columns, max(1, GRID_SIDE // shown[0].width))
    path = out / f"{names[prompts[0]]}-{seed}-grid.png"
    write_png(sheet, path, prompt=" | ".join(prompts[:GRID_ROWS]), seed=seed, **facts)
    print(path)


def write_png(image, path, **facts):
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
