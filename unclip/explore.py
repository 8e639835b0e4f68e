"""What `scripts/explore.py` does: looks into CLIP's space, by way of pictures."""

import torch
from tqdm import tqdm

from .cli import output_folder
from .data.images import grid, image_files, read_image, square
from .edit import picture_or_prompt, short, texts_in
from .errors import UserError
from .generate import load_model, print_notes
from .latents import principal_components, spread_of
from .outputs import enlargement, slug, write_png
from .progress import progress_bar
from .seeds import how_many, one_seed, seeds_from

BATCH = 64


def components(*, image, pictures, counts, model_name, out, seed, device, dtype, offload, settings):
    """A strip of a picture drawn from so many principal components of the embeddings of a folder's pictures.

    counts: numbers; None: 1, 2, 4, ... as far as the folder goes.

    Raises:
        UserError: bad input, or fewer than two pictures in the folder; nothing is written.
    """
    seed, out = one_seed(seed), output_folder(out)
    original, paths = read_image(image), several(pictures)
    model = load_model(model_name, device, dtype, offload)
    settings = model.used(model.settings(**settings))
    there = counts_of(model, paths)
    counts = counts or there
    if not 1 <= min(counts) <= max(counts) <= there[-1]:
        raise UserError(f"{counts} components: choose 1 to {there[-1]}, which the {len(paths)} pictures in {pictures} have")
    directions = principal_components(embedded(model, paths))
    with progress_bar() as callback:
        images = model.components(original, directions, counts, seed=seed, callback=callback, **settings)
    path = out / f"components-{slug(short(image))}-{seed}.png"
    sheet = grid([*images, square(original, images[0].width)], len(images) + 1, enlargement(images[0]))
    write_png(sheet, path, image=str(image), counts=counts, seed=seed, model=str(model_name), settings=settings)
    print(f"from left to right: {', '.join(map(str, counts))} components, the picture itself")
    print(path)


def several(pictures):
    """The picture files of a folder. Raises UserError for fewer than the two that principal components need."""
    paths = image_files(pictures)
    if len(paths) < 2:
        raise UserError(f"one picture in {pictures}: principal components need two or more")
    return paths


def counts_of(model, paths):
    """Numbers of principal components that picture files have: 1, 2, 4, ... and all."""
    most = min(len(paths) - 1, model.prior.embed_dim)  # the mean takes one
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def neighbours(*, item, pictures, count, model_name, out, seed, device, dtype, offload, settings):
    """Print the pictures of a folder whose embeddings are nearest to that of a picture or to what the prior draws for a
    prompt, with their cosines, and write them as a strip.

    Raises:
        UserError: bad input; nothing is written.
    """
    seed, out, given, paths = one_seed(seed), output_folder(out), picture_or_prompt(item), image_files(pictures)
    if count < 1:
        raise UserError(f"--count {count}: at least 1")
    model = load_model(model_name, device, dtype, offload)
    print_notes(model, texts_in(given))
    settings = model.used(model.settings(**settings))
    rows, cosines = model.neighbours(given, embedded(model, paths), count=count, seed=seed, **settings)
    for row, cosine in zip(rows, cosines):
        print(f"{cosine:.3f}  {paths[row]}")
    found = [square(read_image(paths[row]), max(128, model.decoder.image_size)) for row in rows]
    path = out / f"neighbours-{slug(short(item))}-{seed}.png"
    facts = {"item": item, "seed": seed, "model": str(model_name), "settings": settings}
    write_png(grid(found, len(found)), path, files=[str(paths[row]) for row in rows], cosines=cosines, **facts)
    print(path)


def spread(*, prompt, num_images, model_name, out, seed, device, dtype, offload, settings):
    """What a prompt leaves open: two rows of pictures, and figures of the embeddings that the prior draws for it.

    Above, every picture has an embedding of its own and all have one noise; below it is the other way round.

    Raises:
        UserError: bad input, fewer than two pictures among it; nothing is written.
    """
    num_images = how_many(num_images, seed, 8)
    if num_images < 2:
        raise UserError(f"{num_images} images: a spread needs 2 or more")
    seeds, out = seeds_from(seed, num_images), output_folder(out)
    model = load_model(model_name, device, dtype, offload)
    settings = model.used(model.settings(**settings))
    print_notes(model, [prompt])
    with progress_bar() as callback:
        drawn = model.spread(prompt, num_images=num_images, seed=seeds, callback=callback, **settings)
    embeds, by_prior, by_decoder = drawn
    figures = spread_of(embeds)
    path = out / f"spread-{slug(prompt)}-{seeds[0]}.png"
    sheet = grid([*by_prior, *by_decoder], num_images, enlargement(by_prior[0]))
    write_png(sheet, path, prompt=prompt, seed=list(seeds), model=str(model_name), settings=settings, figures=figures)
    print(f"mean cosine of two embeddings {figures['mean_cosine']:.3f} ({figures['angle']:.0f} degrees), n={num_images}")
    print(f"directions that they take up: {figures['dimensions']:.1f} of {embeds.shape[1]}")
    print(path)


def embedded(model, paths):
    """The embeddings (N, D) of picture files, read a few at a time."""
    chunks = [paths[k : k + BATCH] for k in range(0, len(paths), BATCH)]
    return torch.cat([model.look([read_image(p) for p in chunk]) for chunk in tqdm(chunks, desc="looking", leave=False)])
