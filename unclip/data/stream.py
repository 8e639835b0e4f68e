"""Batches of a data set that does not fit into memory: read from its shards again and again, decoded on the way."""

import random
import signal

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import UserError
from .embeddings import read_embeddings
from .shards import Skipped, read_samples
from .table import decode_sample, draw_flips, make_batch, table_of, where_is

SHUFFLE = 2000  # samples, still encoded, among which each worker draws the next one
AHEAD = 4  # batches that each worker prepares
PATIENCE = 10_000  # corrupt samples in a row after which a worker gives up


class StreamBatches:
    """Endless batches of shards, as TableBatches gives them, from `workers` processes (0: this one).

    Every worker of every process draws shards at random, with replacement, and passes their samples through a shuffle
    buffer. `at(step)` gives the next batch, whatever the step: a resumed run sees other pictures than the first one
    did from there on, not the same order. Corrupt samples are skipped, counted and reported. Torch's own generator is
    left alone, so that a thread may prepare the batches.

    shards: paths; size: the side that pictures are decoded to; class_captions: for labelled shards; fingerprint: of the
    CLIP whose embeddings lie beside the shards, None for batches without `image_embed`; captions: as TableBatches'.
    """

    def __init__(
        self, shards, size, batch_size, seed, *, rank=0, class_captions=None, fingerprint=None, mirror=True, captions=True,
        workers=4, say=print,
    ):  # fmt: skip
        shards = [str(s) for s in shards]
        self.samples = ShardSamples(shards, size, batch_size, class_captions, fingerprint, mirror, captions)
        self.seed, self.rank, self.workers, self.say = seed, rank, workers, say
        self.skipped, self._said, self._batches = Skipped(), 0, None

    def at(self, step):
        """The next batch."""
        if self._batches is None:
            self.samples.seed = f"{self.seed} {step} {self.rank}"
            ahead = {"prefetch_factor": AHEAD} if self.workers else {}
            self._batches = iter(DataLoader(
                self.samples, batch_size=None, num_workers=self.workers, worker_init_fn=leave_signals,
                generator=torch.Generator(), **ahead
            ))  # fmt: skip
        batch, skipped = next(self._batches)
        if isinstance(batch, str):
            raise UserError(batch)
        self._count(skipped)
        return batch

    def _count(self, skipped):
        self.skipped.count += skipped.count
        self.skipped.first = self.skipped.first or skipped.first
        if self.skipped.count >= max(1, 2 * self._said):  # a line when the number has doubled
            self.skipped.report(self.say)
            self._said = self.skipped.count


class ShardSamples(IterableDataset):
    """Iterates over (batch, Skipped since the last one), or (a line that says why there are none, Skipped)."""

    def __init__(self, shards, size, batch_size, class_captions, fingerprint, mirror, captions):
        self.shards, self.size, self.batch_size = shards, size, batch_size
        self.mirror, self.captions = mirror, captions
        self.class_captions, self.fingerprint, self.seed = class_captions, fingerprint, ""

    def __iter__(self):
        import webdataset

        worker = get_worker_info()
        rng = random.Random(f"{self.seed} {worker.id if worker else 0}")
        shards = webdataset.ResampledShards(self.shards, seed=rng.getrandbits(32), deterministic=True)
        skipped, in_a_row, samples, embeds = Skipped(), 0, [], []
        for sample in webdataset.shuffle(SHUFFLE, rng=rng)(self.encoded(shards, skipped)):
            try:
                embed = sample["image_embed"] if self.fingerprint else None
                samples.append(decode_sample(sample, self.size, self.class_captions))
                embeds.append(embed)
                in_a_row = 0
            except Exception as error:  # a broken sample must not end the run
                skipped(error, where_is(sample))
                in_a_row += 1
            if in_a_row == PATIENCE:
                break
            if len(samples) == self.batch_size:
                table = table_of(samples, self.class_captions)
                table.image_embed = torch.stack(embeds) if self.fingerprint else None
                flip = draw_flips(len(table), self.mirror, rng)
                rows = torch.arange(len(table))
                yield make_batch(table, rows, flip, rng if self.captions else None), skipped.taken()
                samples, embeds = [], []
        yield f"nothing readable in the shards ({skipped.first}): prepare the data again", skipped

    def encoded(self, shards, skipped):
        """The samples of the shards, with `image_embed` (2, D) from the file beside each; ends if all are empty."""
        empty = 0
        for source in shards:
            shard, empty = source["url"], empty + 1
            embeds = read_embeddings(shard, self.fingerprint) if self.fingerprint else None
            for sample in read_samples([shard], skipped):
                empty = 0
                if embeds is not None and sample["__key__"] in embeds:
                    sample["image_embed"] = embeds[sample["__key__"]].clone()  # no view, which would keep the file mapped
                yield sample
            if empty > 10 * len(self.shards):
                return


def leave_signals(worker):
    """Ctrl-C and SIGTERM are for the main process, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
