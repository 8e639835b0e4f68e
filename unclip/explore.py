"""What `scripts/explore.py` does: looks into CLIP's space, by way of pictures."""

from pathlib import Path

import torch
from tqdm import tqdm

from .cli import device_of, output_folder
from .data.images import grid, image_files, read_image, square
from .edit import picture_or_prompt, print_notes, short, texts_in
from .errors import UserError
from .latents import nearest, principal_components, spread
from .outputs import enlargement, slug, write_png
from .pipeline import UnCLIP
from .seeds import seeds_from

BATCH = 64


def loaded(model_name, device, dtype, offload):
    return UnCLIP.from_pretrained(model_name, device=device_of(device), dtype=getattr(torch, dtype), offload=offload)


def components(*, image, pictures, counts, model_name, out, seed, device, dtype, offload, settings):
    """A strip of a picture drawn from so many principal components of the embeddings of a folder's pictures.

    counts: numbers; None: 1, 2, 4, ... as far as the folder goes.

    Raises:
        UserError: bad input, or fewer than two pictures in the folder; nothing is written.
    """
    (first,), out = seeds_from(seed, 1), output_folder(out)
    original, paths = read_image(image), image_files(pictures)
    if len(paths) < 2:
        raise UserError(f"one picture in {pictures}: principal components need two or more")
    model = loaded(model_name, device, dtype, offload)
    settings = model.used(model.settings(**settings))
    directions = principal_components(embedded(model, paths))
    # the last direction of fewer pictures than dimensions is rounding
    most = min(len(paths) - 1, len(directions[1]))
    counts = counts or [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
    if max(counts) > most:
        raise UserError(f"{max(counts)} components: the {len(paths)} pictures in {pictures} have {most}")
    images = model.components(original, directions, counts, seed=first, callback=None, **settings)
    path = out / f"{slug(short(image))}-components-{first}.png"
    sheet = grid([*images, square(original, images[0].width)], len(images) + 1, enlargement(images[0]))
    write_png(sheet, path, image=str(image), counts=counts, seed=first, model=str(model_name), settings=settings)
    print(f"from left to right: {', '.join(map(str, counts))} components, the picture itself")
    print(path)


def neighbours(*, item, pictures, count, model_name, out, seed, device, dtype, offload, settings):
    """Print the pictures of a folder whose embeddings are nearest to that of a picture or to what the prior draws for a
    prompt, with their cosines, and write them as a strip.

    Raises:
        UserError: bad input; nothing is written.
    """
    (first,), out, given, paths = seeds_from(seed, 1), output_folder(out), picture_or_prompt(item), image_files(pictures)
    if count < 1:
        raise UserError(f"--count {count}: at least 1")
    model = loaded(model_name, device, dtype, offload)
    print_notes(model, texts_in(given))
    embed = model.embedding(given, first, model.settings(**settings))[0]
    rows, cosines = nearest(embed, embedded(model, paths), count)
    for row, cosine in zip(rows, cosines):
        print(f"{cosine:.3f}  {paths[row]}")
    found = [square(read_image(paths[row]), max(128, model.decoder.image_size)) for row in rows]
    path = out / f"{slug(short(item))}-neighbours-{first}.png"
    write_png(grid(found, len(found)), path, item=item, files=[str(paths[row]) for row in rows], cosines=cosines)
    print(path)


def open_questions(*, prompt, num_images, model_name, out, seed, device, dtype, offload, settings):
    """What a prompt leaves open: two rows of pictures, and figures of the embeddings that the prior draws for it.

    Above, every picture has an embedding of its own and all have one noise; below it is the other way round.

    Raises:
        UserError: bad input, fewer than two pictures among it; nothing is written.
    """
    if num_images < 2:
        raise UserError(f"{num_images} images: a spread needs 2 or more")
    (first,), out = seeds_from(seed, 1), output_folder(out)
    model = loaded(model_name, device, dtype, offload)
    settings = model.used(model.settings(**settings))
    print_notes(model, [prompt])
    embeds, by_prior, by_decoder = model.spread(prompt, num_images=num_images, seed=first, **settings)
    figures = spread(embeds)
    path = out / f"{slug(prompt)}-spread-{first}.png"
    sheet = grid([*by_prior, *by_decoder], num_images, enlargement(by_prior[0]))
    write_png(sheet, path, prompt=prompt, seed=first, model=str(model_name), settings=settings, figures=figures)
    print(f"mean cosine of two embeddings {figures['mean_cosine']:.3f} ({figures['angle']:.0f} degrees), n={num_images}")
    print(f"directions that they take up: {figures['dimensions']:.1f} of {embeds.shape[1]}")
    print(path)


def embedded(model, paths):
    """The embeddings (N, D) of picture files, read a few at a time."""
    chunks = [paths[k : k + BATCH] for k in range(0, len(paths), BATCH)]
    return torch.cat([model.look([read_image(p) for p in chunk]) for chunk in tqdm(chunks, desc="looking", leave=False)])
