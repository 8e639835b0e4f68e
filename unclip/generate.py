"""What `scripts/generate.py` does: prompts in, PNG files out."""

import math
import sys

import torch
from tqdm import tqdm

from .cli import device_of, output_folder
from .data.images import grid
from .outputs import enlargement, file_names, write_png
from .pipeline import UnCLIP
from .prompts import checked, read_prompts
from .seeds import how_many, seeds_from

GRID_ROWS = 32
GRID_RATIO = 1.5  # width to height, where every prompt has one picture


def generate(*, prompts, prompt_file, model_name, out, num_images, seed, device, dtype, offload, settings):
    """Draw and write pictures, and print their paths. Arguments are those of the script; settings: see `Settings`.

    The grid has a row a prompt, for the first GRID_ROWS prompts; with one picture a prompt they share rows.

    Raises:
        UserError: bad input; nothing is written.
    """
    prompts = checked([*prompts, *(read_prompts(prompt_file) if prompt_file else [])])
    num_images = how_many(num_images, seed)
    seeds, out = seeds_from(seed, num_images), output_folder(out)
    model = load_model(model_name, device, dtype, offload)
    settings = model.used(model.settings(**settings))
    facts = {"model": str(model_name), "dtype": dtype, "settings": settings}
    print_notes(model, prompts)
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
    sheet = grid(shown, columns, enlargement(shown[0]))
    path = out / f"{names[prompts[0]]}-{seeds[0]}-grid.png"
    write_png(sheet, path, prompt=" | ".join(prompts[:GRID_ROWS]), seed=seed, **facts)
    print(path)


def load_model(name, device, dtype, offload):
    """The model that a script's options name; see `UnCLIP.from_pretrained`."""
    return UnCLIP.from_pretrained(name, device=device_of(device), dtype=getattr(torch, dtype), offload=offload)


def print_notes(model, prompts):
    """What `UnCLIP.notes` says of prompts, on the standard error."""
    for prompt in prompts:
        for note in model.notes(prompt):
            print(f"note: {note}", file=sys.stderr)
