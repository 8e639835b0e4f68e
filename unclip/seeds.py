"""Which seeds pictures are drawn with."""

import random
from numbers import Integral

from .errors import UserError

# A CPU generator of torch looks at 32 bits of a seed, and a picture takes two seeds.
MAX_SEED = 2**31 - 1


def how_many(num_images, seed, default=4):
    """How many pictures are meant, where no number (None) is given: one for each of a list of seeds, or `default`."""
    if num_images is not None:
        return num_images
    return default if isinstance(seed, Integral) else len(seed)


def seeds_from(seed, num_images):
    """The seeds of the pictures of one prompt: from a first one on, or a list. Raises UserError where there are none."""
    if num_images < 1:
        raise UserError(f"{num_images} images: ask for at least 1")
    if not isinstance(seed, Integral):
        if len(seed) != num_images:
            raise UserError(f"{len(seed)} seeds for {num_images} images: give as many")
        return [s for one in seed for s in seeds_from(one, 1)]
    if not 0 <= seed <= MAX_SEED + 1 - num_images:
        raise UserError(f"seed {seed} for {num_images} images: choose 0 to {MAX_SEED + 1 - num_images}")
    return range(int(seed), int(seed) + num_images)


def one_seed(seed):
    """The seed of what is drawn with one alone. Raises UserError for several, or one out of range."""
    if not isinstance(seed, Integral):
        raise UserError(f"{len(seed)} seeds: all frames share one, give that")
    return seeds_from(seed, 1)[0]


def seeds_of_draws(seeds, number):
    """The seeds of each of `number` draws of pictures: first their own, then others that follow from these."""
    yield seeds
    for k in range(1, number):
        yield [random.Random(f"sample {k} of {s}").randint(0, MAX_SEED) for s in seeds]
