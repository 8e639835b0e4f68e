"""What `scripts/edit.py` does: pictures and prompts in, PNG files and animations out."""

import os
from pathlib import Path

from .cli import output_folder
from .data.images import IMAGE_SUFFIXES, grid, read_image
from .generate import load_model, print_notes
from .outputs import enlargement, slug, write_gif, write_png
from .progress import progress_bar
from .prompts import AND, checked, split_weight
from .seeds import how_many, one_seed, seeds_from

FRAMES = ("blend", "edit")  # methods that give frames of a way, not single pictures


def edit(method, inputs, *, num_images=None, model_name, out, seed, device, dtype, offload, settings):
    """Draw by a method of `UnCLIP` (see manipulations.py), write the pictures, and print their paths.

    Pictures are followed by a grid, the frames of a way by a strip and an animation.

    Args:
        method: its name; inputs: its own keywords, as the user gave them, with paths in the place of pictures.
        num_images: None for a method that gives frames. The others are those of the script; settings: see `Settings`.

    Raises:
        UserError: bad input; nothing is written.
    """
    moving = method in FRAMES
    count = 1 if moving else how_many(num_images, seed)
    seeds, out = [one_seed(seed)] if moving else seeds_from(seed, count), output_folder(out)
    if method == "mix":
        # a weight of the whole item; one with AND has weights of its own
        items, weights = zip(*((i, None) if AND.search(i) else split_weight(i) for i in inputs["items"]))
        inputs = {"items": list(items), "weights": [1.0 if w is None else w for w in weights]}
    given = {key: read(key, value) for key, value in inputs.items()}
    name = name_of(method, inputs)
    model = load_model(model_name, device, dtype, offload)
    by_inversion = moving or inputs.get("fidelity")
    settings = model.used(model.deterministic(settings, method) if by_inversion else model.settings(**settings))
    print_notes(model, [text for key in ("items", "prompt", "caption", "base") for text in texts_in(given.get(key))])
    if not moving:
        given |= {"num_images": count}
    with progress_bar() as callback:
        images = getattr(model, method)(**given, seed=seeds[0] if moving else seeds, callback=callback, **settings)
    facts = {"model": str(model_name), "dtype": dtype, "method": method, **inputs, "settings": settings}
    paths = [out / f"{name}-{seeds[0]}-{k:02d}.png" for k in range(len(images))]
    if not moving:
        paths = [out / f"{name}-{s}.png" for s in seeds]
    for image, path, s in zip(images, paths, [seeds[0]] * len(images) if moving else seeds):
        write_png(image, path, seed=s, **facts)
    sheet = out / f"{name}-{seeds[0]}-{'strip' if moving else 'grid'}.png"
    write_png(grid(images, len(images), enlargement(images[0])), sheet, seed=seed, **facts)
    paths.append(sheet)
    if moving:
        paths.append(out / f"{name}-{seeds[0]}.gif")
        write_gif(images, paths[-1])
    print("\n".join(map(str, paths)))


def read(key, value):
    """A keyword of a method from what the user gave: files as pictures, the rest as it is."""
    if key == "image":
        return read_image(value)
    if key == "mask":
        return read_image(value, background="black")
    if key == "items":
        return [picture_or_prompt(item) for item in value]
    return value


def picture_or_prompt(item):
    """A PIL image where `item` names a picture file, or is called like one; else the prompt that it is."""
    if is_picture(item):
        return read_image(item)
    return checked(item)[0]


def is_picture(item):
    return Path(item).suffix.lower() in IMAGE_SUFFIXES or os.path.isfile(item)


def texts_in(value):
    """The prompts among what a keyword holds."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str) and v.strip()]


def name_of(method, inputs):
    """What files of a drawing are called: by the method, its numbers, its pictures and its prompts."""
    numbers = [f"{key}-{inputs[key]:g}" for key in ("fidelity", "strength") if key in inputs]
    things = [*inputs.get("items", []), *(inputs[key] for key in ("image", "prompt", "caption") if inputs.get(key))]
    return slug("-".join([method, *numbers, *map(short, things)]))


def short(item):
    """A picture or a prompt in a file name."""
    return Path(item).stem if is_picture(item) else item
