"""A small data set held in memory, decoded once, and its batches."""

import io
import random
from dataclasses import dataclass, replace
from itertools import islice

import torch
from PIL import Image

from ..errors import UserError, first_line
from ..files import parse_json
from .attributes import checked, mirrored
from .captions import ClassCaptions, words_of
from .images import decode_opened, opened
from .remote import shard_name
from .shards import find_shards, image_bytes, read_samples
from .skipped import Bad, Skipped
from .sums import sum_of

MIN_SIDE = 8  # pixels of the shorter side: what is smaller, such as the 1x1 of a page that was blocked, shows nothing


@dataclass
class Table:
    """Pictures in memory. One of `labels` and `captions` is given.

    images: uint8 (N, 3, S, S); labels: LongTensor (N,); captions: list of N lists of str; keys: N strings, one a
    sample and unique within a shard; shards: N paths; class_captions: for labelled sets.
    readings: for labelled sets, N dicts of what was read off the pictures (see attributes.py).
    image_embed: float16 (N, 2, D), CLIP's embedding of each picture and of its mirror image, once attached.
    small: uint8 (N, 3, s, s), a small version of each picture that is not just the picture shrunk, once attached.
    drawn: uint8 (N, 3, S, S), what a model drew from each picture's embedding, once attached.
    sides: LongTensor (N,), the shorter side of each picture in its shard, before it was made S x S.
    sums: N numbers, the checksum of each picture's bytes in its shard (see sums.py).
    """

    images: torch.Tensor
    keys: list
    shards: list
    labels: torch.Tensor = None
    captions: list = None
    class_captions: ClassCaptions = None
    readings: list = None
    image_embed: torch.Tensor = None
    small: torch.Tensor = None
    drawn: torch.Tensor = None
    sides: torch.Tensor = None
    sums: list = None

    def __len__(self):
        return len(self.images)

    def words(self):
        """Every word of the captions, in lower case, as a sorted list."""
        if self.class_captions is not None:
            return self.class_captions.words()
        return sorted({w for texts in self.captions for text in texts for w in words_of(text)})

    def take(self, rows):
        """The table of some rows (LongTensor)."""
        pick = lambda column: None if column is None else column[rows]  # noqa: E731
        pick_list = lambda column: None if column is None else [column[r] for r in rows.tolist()]  # noqa: E731
        return replace(
            self, images=self.images[rows], keys=pick_list(self.keys), shards=pick_list(self.shards),
            labels=pick(self.labels), captions=pick_list(self.captions), readings=pick_list(self.readings),
            image_embed=pick(self.image_embed), small=pick(self.small), drawn=pick(self.drawn), sides=pick(self.sides),
            sums=pick_list(self.sums),
        )  # fmt: skip


def load_table(folder, split, size, say=print):
    """Decode a split of a data folder into memory. Corrupt samples are skipped, counted and reported.

    Raises:
        UserError: no folder, no shards, or nothing readable in them.
    """
    return load_shards(find_shards(folder, split), size, ClassCaptions.of_folder(folder), say)


def load_shards(shards, size, class_captions=None, say=print, every=1, most=None, max_bad=1.0):
    """The table of some shards; `class_captions` for labelled ones, None for captioned ones.

    Of every n-th sample; of the first `most` of these, if given. max_bad: the share of the samples, and of the shards, that
    may be bad.

    Raises:
        UserError: nothing readable in them, or too much that is not.
    """
    skipped, samples = Skipped(), []
    for sample in islice(read_samples(shards, skipped), 0, most and most * every, every):
        try:
            samples.append(decode_sample(sample, size, class_captions))
        except Exception as error:  # a broken sample must not end the run
            skipped(error, where_is(sample))
    skipped.report(say)
    if not samples:
        raise UserError(f"nothing readable in {shards[0]} and its like ({skipped.first}): prepare the data again")
    skipped.check(len(samples), max_bad, len(shards))
    return table_of(samples, class_captions)


def decode_sample(sample, size, class_captions=None, captions=True):
    """A sample of a shard as (image, caption lines or label, readings or None, key, shard, its own shorter side, checksum).

    captions: whether the lines are read, and needed. Raises Bad, or another Exception, where the sample is broken.
    """
    content, readings = image_bytes(sample), None
    image, side = decode_picture(content, size)
    if class_captions is not None:
        text = label_of(sample, len(class_captions.names))
        own = class_captions.reading_share and "json" in sample  # other sets' files of that kind hold other things
        readings = checked(parse_json(sample["json"])["readings"]) if own else {}
    else:
        text = lines_of(sample) if captions else []
    return image, text, readings, sample["__key__"], sample["__url__"], side, sum_of(content)


def decode_picture(content, size):
    """What `decode_with_side` gives, of a picture of sensible size.

    Raises:
        Bad: it is none, is cut off or damaged, has more than images.MAX_PIXELS, which are not unpacked, or a side below MIN_SIDE.
    """
    try:
        image = opened(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise Bad("too large", first_line(error)) from None
    except Exception as error:  # PIL's many ways to fail on a broken file
        raise Bad("not a picture", first_line(error).split(" <_io")[0]) from None
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise Bad("too small", f"it has {width}x{height} pixels, a side of less than {MIN_SIDE}")
    try:
        return decode_opened(image, size)
    except Exception as error:
        raise Bad("truncated picture", first_line(error)) from None


def label_of(sample, classes):
    """The number of a sample's class. Raises Bad where it has none of `classes`."""
    try:
        label = int(sample["cls"])
    except KeyError:
        raise Bad("no label", "it has no class (cls)") from None
    except ValueError:
        raise Bad("no label", f"its class is {sample['cls'][:20]!r}, and no number") from None
    if not 0 <= label < classes:
        raise Bad("no label", f"its class is {label}, but there are {classes} class names")
    return label


def lines_of(sample):
    """The captions of a sample, a list of at least one. Raises Bad where it has none."""
    if "txt" not in sample:
        raise Bad("no caption", "it has no caption (txt)")
    try:
        lines = [line.strip() for line in sample["txt"].decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise Bad("no caption", "its caption is not UTF-8") from None
    if not lines:
        raise Bad("no caption", "its caption is empty")
    return lines


def where_is(sample):
    """The place of a sample, for reports."""
    return f"{sample['__key__']} in {shard_name(sample['__url__'])}"


def table_of(samples, class_captions=None):
    """The Table of some decoded samples."""
    images, texts, readings, keys, shards, sides, sums = map(list, zip(*samples))
    images, sides = torch.stack(images), torch.tensor(sides)
    if class_captions is not None:
        labels = torch.tensor(texts)
        return Table(images, keys, shards, labels, class_captions=class_captions, readings=readings, sides=sides, sums=sums)
    return Table(images, keys, shards, captions=texts, sides=sides, sums=sums)


class TableBatches:
    """Endless batches of a table, in an order that depends on the seed and the step alone, so a run can resume.

    A batch is a dict: image uint8 (B, 3, S, S), mirrored at random; caption, a list of B strings; concept, said, known
    and readings, lists of what the captions say and of what is known of the pictures (see truth.py);
    image_embed float32 (B, D) of the picture as it is, mirrored or not, and small uint8 (B, 3, s, s) and drawn uint8
    (B, 3, S, S), mirrored as the picture is, where the table has them; label (B,) for labelled sets. Process `rank` of `world` gets its own part of every
    global batch. captions: whether to draw them; without, the batches have neither caption, concept, said, known nor
    readings, and are else the same.
    """

    def __init__(self, table, batch_size, seed, rank=0, world=1, mirror=True, captions=True):
        self.table, self.batch_size, self.seed, self.rank, self.world = table, batch_size, seed, rank, world
        self.mirror, self.captions = mirror, captions
        self._epoch, self._order = None, None

    def at(self, step):
        """The batch of a step."""
        start = (step * self.world + self.rank) * self.batch_size
        rng = random.Random(f"{self.seed} {start}")
        flip = draw_flips(self.batch_size, self.mirror, rng)
        return make_batch(self.table, self._rows(start, start + self.batch_size), flip, rng if self.captions else None)

    def state(self):
        """Nothing: the step says where the batches are. See StreamBatches."""
        return {}

    def load(self, state):
        """Nothing to do: the step says it."""

    def _rows(self, start, end):
        """LongTensor (end - start,): the rows at these places of the epochs' orders, one after the other."""
        rows = []
        while start < end:
            epoch, place = divmod(start, len(self.table))
            rows.append(self._order_of(epoch)[place : place + end - start])
            start += len(rows[-1])
        return torch.cat(rows)

    def _order_of(self, epoch):
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.table), generator=generator)
        return self._order


def draw_flips(count, mirror, rng):
    """bool (count,): which pictures are mirrored, half of them if `mirror`."""
    return torch.tensor([mirror and rng.random() < 0.5 for _ in range(count)])


def make_batch(table, rows, flip, rng=None):
    """The rows of a table as a batch (see TableBatches); flip: bool (B,); rng: draws the captions, None: without them."""
    batch = {"image": images_of(table.images, rows, flip), "key": [table.keys[r] for r in rows.tolist()]}
    if table.labels is not None:
        batch["label"] = table.labels[rows]
    if table.image_embed is not None:
        batch["image_embed"] = table.image_embed[rows, flip.long()].float()
    batch |= {name: images_of(more, rows, flip) for name in ("small", "drawn") if (more := getattr(table, name)) is not None}
    return batch if rng is None else {**batch, **draw_captions(table, rows.tolist(), flip.tolist(), rng)}


def images_of(images, rows, flip):
    """Some rows of pictures, mirrored where `flip` says so: a copy."""
    image = images.index_select(0, rows)  # copies a picture at once, as indexing does not
    return torch.cat([image, image.flip(-1)]).index_select(0, torch.arange(len(rows)) + len(rows) * flip)


def draw_captions(table, rows, flip, rng):
    """A caption for each of some rows, mirrored where `flip` says so, and what is known of it: see TableBatches."""
    if table.labels is None:
        known = [table.captions[r] for r in rows]
        caption, nothing = [rng.choice(texts) for texts in known], [{}] * len(rows)
        return {"caption": caption, "concept": caption, "said": nothing, "known": known, "readings": nothing}
    labels = table.labels[rows].tolist()
    readings = [{}] * len(rows) if table.readings is None else [table.readings[r] for r in rows]
    readings = [mirrored(r) if turned else r for r, turned in zip(readings, flip)]
    drawn = [table.class_captions.draw(label, rng, r) for label, r in zip(labels, readings)]
    return {
        "caption": [d.text for d in drawn], "concept": [d.concept for d in drawn], "said": [d.said for d in drawn],
        "known": [table.class_captions.concepts(label) for label in labels], "readings": readings,
    }  # fmt: skip
