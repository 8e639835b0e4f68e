"""What `scripts/generate.py` does: prompts in, PNG files out."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .cli import device_of
from .data.images import grid
from .data.prepare import read_lines
from .errors import UserError
from .files import new_file
from .prompts import checked

GRID_SCALE = 4


def generate(prompts, prompt_file, model_name, out, num_images, seed, device, dtype, settings):
    """Draw and write pictures; prints their paths. Arguments are those of the script; settings: see `Settings`.

    Raises:
        UserError: bad input; nothing is written, or all of a prompt's pictures.
    """
    prompts = checked([*prompts, *(read_lines(prompt_file) if prompt_file else [])])
    if num_images < 1:
        raise UserError(f"--num-images {num_images}: ask for at least 1")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    device = device_of(device)

    import torch

    from .pipeline import UnCLIP

    model = UnCLIP.from_pretrained(model_name, device=device, dtype=getattr(torch, dtype))
    settings = asdict(model.settings(**settings))
    for prompt in prompts:
        for note in model.notes(prompt):
            print(f"note: {note}", file=sys.stderr)
    pictures = []
    steps = settings["num_inference_steps"]
    with tqdm(total=len(prompts) * steps, unit="step", desc="drawing", leave=False) as bar:
        for prompt in prompts:
            shown = bar.n
            images = model(
                prompt, num_images=num_images, seed=seed,
                callback=lambda stage, i, n, done, total: stage == "decoder"
                and bar.update(shown + int(steps * (done / total + i / n * (1 - done / total))) - bar.n),
                **settings,
            )  # fmt: skip
            for k, image in enumerate(images):
                path = out / f"{slug(prompt)}-{seed + k}.png"
                write_png(image, path, prompt=prompt, seed=seed + k, model=str(model_name), settings=settings)
                pictures.append((image, path))
    for _, path in pictures:
        print(path)
    sheet = grid([image for image, _ in pictures], num_images, max(1, GRID_SCALE * 32 // pictures[0][0].width))
    grid_path = out / f"grid-{slug(prompts[0])}-{seed}.png"
    write_png(sheet, grid_path, prompt=" | ".join(prompts), seed=seed, model=str(model_name), settings=settings)
    print(grid_path)


def write_png(image, path, **facts):
    """Write a PNG whole or not at all; facts become PNG text (those that are no strings, as JSON)."""
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    with new_file(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)


def slug(prompt):
    """A prompt as a file name: lower case words joined by '-', at most 60 letters."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:60].strip("-") or "picture"
