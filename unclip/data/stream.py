"""Batches of a data set that does not fit into memory: read from its shards again and again, decoded on the way."""

import hashlib
import random
from copy import copy
from itertools import count
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..errors import UserError
from .caption_embeddings import read_texts, together
from .embeddings import embeddings_file, read_embeddings
from .encoding import leave_signals
from .remote import shard_name
from .shards import read_samples
from .skipped import Bad, Skipped
from .sums import sum_of
from .table import decode_sample, draw_flips, make_batch, table_of, where_is

SHUFFLE = 2000  # samples, still encoded, among which each worker draws the next one
AHEAD = 4  # batches that each worker prepares
PATIENCE = 10_000  # corrupt samples in a row after which a worker gives up


class Place(NamedTuple):
    """How far a reader has come: `taken` samples, corrupt ones too, of the mixed shard number `shard` of its share."""

    epoch: int = 0
    shard: int = 0
    taken: int = 0


class StreamBatches:
    """Endless batches of shards, as TableBatches gives them, from `workers` processes (0: this one).

    The readers, all workers of all processes, share out the shards of each epoch (see `share_of`): none is lost and none
    read twice. Each goes on with its own next epoch when its share is done, so that uneven shards keep nobody waiting, and
    mixes the samples of one shard at a time. What a batch holds depends on the seed, the number of processes and workers,
    the rank and how many batches came before it. Corrupt samples and lost shards are skipped, counted by kind and reported as
    they are met, until they are more than the share `max_bad`; a run that goes on counts anew, since the data may be mended.
    Torch's own generator is left alone, so that a thread may prepare the batches.

    shards: paths or URLs; rank, world: which of how many processes this is; what: the keywords of ShardSamples, which say what
    a batch holds.
    """

    def __init__(self, shards, size, batch_size, seed, *, rank=0, world=1, workers=4, max_bad=1.0, say=print, **what):
        shards, count = [str(s) for s in shards], max(1, workers)
        self.samples = ShardSamples(shards, size, batch_size, seed, world * count, **what)
        self.first, self.workers, self.max_bad, self.say = rank * count, workers, max_bad, say
        self.order = {"seed": seed, "rank": rank, "processes": world, "workers": count, "shards": names_digest(shards)}
        self.places, self.turn = [Place()] * count, 0  # of each worker; whose batch is next
        self.good, self.skipped, self._said, self._batches = 0, Skipped(), (0, 0), None  # _batches: of each worker

    def at(self, step):
        """The next batch: steps are asked for in their order, from the first one or from where `load` goes on.

        Raises:
            UserError: nothing readable, or too much that is not.
        """
        try:
            return self._next()
        except UserError:
            self._batches = None  # which ends the workers
            raise

    def _next(self):
        if self._batches is None:
            self._batches = [self._worker(number) for number in range(len(self.places))]
        batch = None
        while batch is None:
            batch, place, skipped = next(self._batches[self.turn])
            if isinstance(batch, str):
                raise UserError(batch)
            self.good += len(batch["key"]) if batch else 0
            self._count(skipped)
        self.places[self.turn] = place
        self.turn = (self.turn + 1) % len(self.places)
        return batch

    def _worker(self, number):
        """What a worker has to say: a DataLoader of its own, so that whatever it says takes no other one's turn."""
        processes = {"num_workers": 1, "prefetch_factor": AHEAD} if self.workers else {}
        samples = self.samples.of(self.first + number, self.places[number])
        return iter(DataLoader(
            samples, batch_size=None, worker_init_fn=leave_signals, generator=torch.Generator(), **processes
        ))  # fmt: skip

    def state(self):
        """Where the last batch that `at` gave has ended, for `load`: a dict of what JSON knows. Each process has its own."""
        return {**self.order, "turn": self.turn, "places": [list(place) for place in self.places]}

    def load(self, state):
        """Go on from a `state`, to the bit. From one of other shards, processes, workers or of another seed, go on with the
        start of the earliest epoch in it, and say so."""
        self._batches = None
        changed = [name for name, value in self.order.items() if state.get(name) != value]
        if not changed:
            self.places, self.turn = [Place(*place) for place in state["places"]], state["turn"]
            return
        epoch = min((place[0] for place in state.get("places", ())), default=0)
        self.places, self.turn = [Place(epoch)] * len(self.places), 0
        self.say(f"the data cannot go on where it was ({', '.join(changed)} changed): it starts with epoch {epoch + 1}")

    def _count(self, skipped):
        self.skipped.join(skipped)
        counts = self.skipped.count, self.skipped.shard_ends
        if any(count >= max(1, 2 * said) for count, said in zip(counts, self._said)):  # a line when one has doubled
            self.skipped.report(self.say)
            self._said = counts
        self.skipped.check(self.good, self.max_bad, len(self.samples.shards))


class ShardSamples(IterableDataset):
    """Iterates over what one of `readers` reads (see `of`): (batch, the Place behind it, Skipped since the last one); (None,
    None, Skipped) where a shard had nothing; or at last (a line that says why there are no more, None, Skipped).

    size: the side that pictures are decoded to; class_captions: for labelled shards; fingerprint: of the CLIP whose embeddings
    lie beside the shards, None for batches without `image_embed`; mirror, captions: as TableBatches'; text_fingerprint: of the
    whole CLIP, from whose files beside the shards a batch gets the text keys of its captions, float32, where all of its samples
    are in one; None: no batch has them.
    """

    def __init__(
        self, shards, size, batch_size, seed, readers, *, class_captions=None, fingerprint=None, text_fingerprint=None,
        mirror=True, captions=True,
    ):  # fmt: skip
        self.shards, self.size, self.batch_size, self.seed = shards, size, batch_size, seed
        self.readers, self.mirror, self.captions = readers, mirror, captions
        self.class_captions, self.fingerprint, self.text_fingerprint = class_captions, fingerprint, text_fingerprint

    def of(self, reader, place):
        """Those of the reader of this number, from a Place on."""
        samples = copy(self)
        samples.reader, samples.place = reader, place
        return samples

    def __iter__(self):
        skipped, in_a_row, samples, embeds, texts, reason = Skipped(), 0, [], [], [], None
        for sample, place in self.encoded(self.reader, self.place, skipped):
            if sample is None:
                met = skipped.taken()
                reason = met.first or reason
                yield None, None, met
                continue
            try:
                decoded = decode_sample(sample, self.size, self.class_captions, self.captions)
                embeds.append(self.embedding_of(sample, decoded[-1]) if self.fingerprint else None)
                samples.append(decoded)
                texts.append(sample["texts"])
                in_a_row = 0
            except Exception as error:  # a broken sample must not end the run
                skipped(error, where_is(sample))
                in_a_row += 1
            if in_a_row == PATIENCE:
                break
            if len(samples) == self.batch_size:
                table = table_of(samples, self.class_captions)
                table.image_embed = torch.stack(embeds) if self.fingerprint else None
                rng = random.Random(f"batch {self.seed} {self.reader} {tuple(place)}")
                flip = draw_flips(len(table), self.mirror, rng)
                rows = torch.arange(len(table))
                batch = make_batch(table, rows, flip, rng if self.captions else None)
                yield batch | drawn_texts(batch.get("caption", ()), texts), place, skipped.taken()
                samples, embeds, texts = [], [], []
        yield f"nothing readable in the shards ({skipped.first or reason}): prepare the data again", None, skipped

    def embedding_of(self, sample, checksum):
        """The image_embed (2, D) of a sample whose picture has this checksum. Raises Bad where the file beside its shard has
        none, or that of another picture."""
        embeds, key = sample["embeds"], sample["__key__"]
        if embeds is None or key not in embeds:
            raise Bad("no embedding", "the file beside its shard lacks it")
        if not embeds.fits(key, checksum):
            file = embeddings_file(sample["__url__"], self.fingerprint).name
            raise Bad("no embedding", f"{file} has that of another picture: remove it, and it is made anew")
        return embeds[key]

    def encoded(self, reader, place, skipped):
        """A reader's samples from a Place on, each with the Place behind it; (None, None) for a shard without any; ends if all
        shards are empty.

        With `embeds`, the shard's ShardEmbeddings or None, and `texts`, as `ShardTexts.of` gives them. What lies before the
        Place is read, and not decoded.
        """
        import webdataset

        empty, (first, done, taken) = 0, place
        for epoch in count(first):
            share = share_of(reader, self.readers, epoch, len(self.shards), self.seed)
            for number, shard in list(enumerate(share))[done:]:
                rng, url, empty = random.Random(f"shard {self.seed} {epoch} {shard}"), self.shards[shard], empty + 1
                embeds = read_embeddings(url, self.fingerprint) if self.fingerprint else None
                texts = read_texts(url, self.text_fingerprint) if self.text_fingerprint else None
                for n, sample in enumerate(webdataset.shuffle(SHUFFLE, rng=rng)(read_samples([url], skipped)), 1):
                    empty = 0
                    if n <= taken:
                        skipped.taken()  # they were counted when they were met first
                        continue
                    sample["embeds"] = embeds  # whatever files of such names are in the shard
                    sample["texts"] = {} if texts is None else texts.of(sample["__key__"])
                    yield sample, Place(epoch, number, n)
                taken = 0
                if empty:
                    yield None, None
                if empty > 10 * len(self.shards):
                    return
            done = 0


def drawn_texts(captions, texts):
    """The text keys of the captions that a batch drew, or none where one of them has no text.

    captions: B strings, or none; texts: of each sample the items of ShardTexts, {checksum of a caption: item}.
    """
    drawn = [those.get(sum_of(caption)) for those, caption in zip(texts, captions)]
    return together(drawn) if drawn and all(drawn) else {}


def share_of(reader, readers, epoch, count, seed):
    """Which of `count` shards one of the readers reads in an epoch, and in which order: a list of their numbers.

    Every epoch mixes the shards anew, and deals them out like cards, beginning with the reader who is next after the epoch
    before it: where there are fewer shards than readers, it is each one's turn now and then.
    """
    mixed = list(range(count))
    random.Random(f"epoch {seed} {epoch}").shuffle(mixed)
    return mixed[(reader - epoch * count) % readers :: readers]


def names_digest(shards):
    """A few letters that stand for the names of shards, wherever they lie."""
    return hashlib.sha256("\n".join(shard_name(s) for s in shards).encode()).hexdigest()[:16]
