"""The sets of pictures that an evaluation compares: a model's, a folder's, and the real ones."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from ..data.captions import PLAIN_TEMPLATES
from ..data.embeddings import attach_embeddings
from ..data.images import image_files, read_image, square, to_bytes, to_uint8
from ..data.table import Table, load_table
from ..errors import UserError
from ..zero_shot import fill


@dataclass
class Pictures:
    """images: uint8 (N, 3, S, S); prompts: N strings, what each is to show, or None; labels: N positions among the
    classes' names, or None; image_embed: (N, D), the true embeddings of real pictures, or None; table: where these came
    from; sides: LongTensor (N,), the shorter sides of real pictures before they were made S x S, or None."""

    images: torch.Tensor
    prompts: list = None
    labels: torch.Tensor = None
    image_embed: torch.Tensor = None
    table: Table = None
    sides: torch.Tensor = None

    def __len__(self):
        return len(self.images)

    def take(self, rows):
        """The pictures of some rows (LongTensor)."""
        return replace(
            self,
            images=self.images[rows],
            prompts=None if self.prompts is None else [self.prompts[r] for r in rows.tolist()],
            labels=None if self.labels is None else self.labels[rows],
            image_embed=None if self.image_embed is None else self.image_embed[rows],
            sides=None if self.sides is None else self.sides[rows],
        )

    def embed(self, clip):
        """Add the embeddings by a FrozenCLIP, which lie beside the shards or are made now."""
        attach_embeddings(self.table, clip)
        self.image_embed = self.table.image_embed[:, 0].float()


@dataclass
class Brief:
    """What is to be drawn, a prompt after another, evenly: prompts, the label of each or None, and the embedding (N, D)
    of each or None, where they do not come from the prior."""

    prompts: list
    labels: list = None
    image_embed: torch.Tensor = None

    def count(self, num_images):
        """How many pictures `draw` makes of so many."""
        return len(self.prompts) * -(-num_images // len(self.prompts))

    def draw(self, model, num_images, seed, settings, desc="drawing"):
        """`num_images` pictures by a model, rounded up to as many for each prompt; each with a seed of its own."""
        each = -(-num_images // len(self.prompts))
        jobs = [(p, seed + k * each + i) for k, p in enumerate(self.prompts) for i in range(each)]
        with tqdm(total=len(jobs), desc=desc, unit="picture", unit_scale=True, leave=False) as bar:
            drawn = model.sample_each(
                jobs, settings, image_embed=repeated(self.image_embed, each),
                callback=lambda step: bar.update(step.share * len(jobs) - bar.n),
            )  # fmt: skip
        labels = None if self.labels is None else torch.as_tensor(self.labels)
        return Pictures(to_bytes(drawn), [prompt for prompt, _ in jobs], repeated(labels, each))


def repeated(tensor, times):
    """Each row so many times; None of none."""
    return None if tensor is None else tensor.repeat_interleave(times, dim=0)


def brief_of_concepts(names, no_article=()):
    """A prompt a concept, the concept being its label."""
    return Brief([fill(PLAIN_TEMPLATES[0], n, no_article) for n in names], list(range(len(names))))


def brief_of_captions(pictures, num_images, seed):
    """The captions of `num_images` pictures at most, at random."""
    return Brief(shuffled(pictures, num_images, seed).prompts)


def brief_of_pictures(pictures):
    """Pictures with their embeddings, to be drawn again from these."""
    return Brief(pictures.prompts, pictures.labels, pictures.image_embed)


def shuffled(pictures, count, seed):
    """`count` at most of what has a length and `take`, at random."""
    return pictures.take(torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:count])


def is_shards(folder):
    """Is this a data folder of shards, and no plain folder of pictures?"""
    return any(Path(folder).glob("*.tar")) or any(Path(folder).glob("*/*.tar"))


def real_pictures(folder, split, side):
    """The pictures of a data folder's split (side x side), captions or labels with them; or those of a plain folder.

    Raises:
        UserError: nothing there, or nothing readable.
    """
    if not is_shards(folder):
        return pictures_of_folder(folder, side)
    table = load_table(folder, split, side)
    if table.labels is None:
        return Pictures(table.images, [captions[0] for captions in table.captions], table=table, sides=table.sides)
    classes = table.class_captions
    prompts = brief_of_concepts([names[0] for names in classes.names], classes.no_article).prompts
    prompts = [prompts[label] for label in table.labels.tolist()]
    return Pictures(table.images, prompts, table.labels, table=table, sides=table.sides)


def pictures_of_folder(folder, side=None):
    """The picture files of a folder, shrunk or enlarged to `side`; None: as they are, which must be of one size.

    Raises:
        UserError: no folder, no picture in it, one that is broken, or sizes that differ.
    """
    images, sides, size = [], [], None
    for path in image_files(folder, ", or shards"):
        image = read_image(path)
        if side is None and size not in (None, image.size):
            (a, b), (c, d) = size, image.size
            raise UserError(f"the pictures in {folder} have different sizes ({a}x{b}, {c}x{d}, ...): make them one size")
        size = image.size
        sides.append(min(size))
        images.append(to_uint8(square(image, side or min(size))))
    return Pictures(torch.stack(images), sides=torch.tensor(sides))
