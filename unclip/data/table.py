"""A small data set held in memory, decoded once, and its batches."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import UserError
from .captions import ClassCaptions, words_of
from .images import decode
from .shards import Skipped, find_shards, image_bytes, read_samples


@dataclass
class Table:
    """Pictures in memory. One of `labels` and `captions` is given.

    images: uint8 (N, 3, S, S); labels: LongTensor (N,); captions: list of N lists of str; keys: N strings, one a
    sample and unique within a shard; shards: N paths; class_captions: for labelled sets.
    image_embed: float16 (N, 2, D), CLIP's embedding of each picture and of its mirror image, once attached.
    """

    images: torch.Tensor
    keys: list
    shards: list
    labels: torch.Tensor = None
    captions: list = None
    class_captions: ClassCaptions = None
    image_embed: torch.Tensor = None

    def __len__(self):
        return len(self.images)

    def words(self):
        """Every word of the captions, in lower case, as a sorted list."""
        if self.class_captions is not None:
            return self.class_captions.words()
        return sorted({w for texts in self.captions for text in texts for w in words_of(text)})


def load_table(folder, split, size, say=print):
    """Decode a split of a data folder into memory. Corrupt samples are skipped, counted and reported.

    Raises:
        UserError: no folder, no shards, or nothing readable in them.
    """
    folder, skipped = Path(folder), Skipped()
    labelled = (folder / "classnames.txt").is_file()
    images, keys, shards, labels, captions = [], [], [], [], []
    for sample in read_samples(find_shards(folder, split), skipped):
        try:
            image = decode(image_bytes(sample), size)
            text = int(sample["cls"]) if labelled else sample["txt"].decode("utf-8").strip().splitlines()
        except Exception as error:  # a broken sample must not end the run
            skipped(error)
            continue
        images.append(image)
        keys.append(sample["__key__"])
        shards.append(sample["__url__"])
        (labels if labelled else captions).append(text)
    skipped.report(say)
    if not images:
        raise UserError(f"nothing readable in the shards of {folder} ({split}): prepare the data again")
    table = Table(torch.stack(images), keys, shards)
    if labelled:
        table.labels, table.class_captions = torch.tensor(labels), ClassCaptions.of_folder(folder)
    else:
        table.captions = captions
    return table


class TableBatches:
    """Endless batches of a table, in an order that depends on the seed and the step alone, so a run can resume.

    A batch is a dict: image uint8 (B, 3, S, S), mirrored at random; caption and concept, lists of B strings;
    image_embed float32 (B, D) of the picture as it is, mirrored or not, where the table has embeddings; label (B,)
    for labelled sets. Process `rank` of `world` gets its own part of every global batch.
    """

    def __init__(self, table, batch_size, seed, rank=0, world=1, mirror=True):
        self.table, self.batch_size, self.seed, self.rank, self.world = table, batch_size, seed, rank, world
        self.mirror = mirror
        self._epoch, self._order = None, None

    def at(self, step):
        """The batch of a step."""
        start = (step * self.world + self.rank) * self.batch_size
        rows = torch.tensor([self._row(start + k) for k in range(self.batch_size)])
        rng = random.Random(f"{self.seed} {start}")
        flip = torch.tensor([self.mirror and rng.random() < 0.5 for _ in rows])
        return make_batch(self.table, rows, flip, rng)

    def _row(self, position):
        epoch, place = divmod(position, len(self.table))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.table), generator=generator).tolist()
        return self._order[place]


def make_batch(table, rows, flip, rng):
    """The rows of a table as a batch (see TableBatches); flip: bool (B,)."""
    image = table.images[rows]
    image = torch.where(flip[:, None, None, None], image.flip(-1), image)
    batch = {"image": image, "key": [table.keys[r] for r in rows]}
    if table.labels is not None:
        batch["label"] = table.labels[rows]
        drawn = [table.class_captions.draw(label, rng) for label in batch["label"].tolist()]
        batch["caption"], batch["concept"] = [d[0] for d in drawn], [d[1] for d in drawn]
    else:
        batch["caption"] = batch["concept"] = [rng.choice(table.captions[r]) for r in rows]
    if table.image_embed is not None:
        batch["image_embed"] = table.image_embed[rows, flip.long()].float()
    return batch
