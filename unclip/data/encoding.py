"""From shards to what CLIP says of them: some processes read and decode, this one encodes.

What is encoded is a kind: `Pictures` (embeddings.py) or `Captions` (caption_embeddings.py). A kind has
- `contents(sample)`: a list of what a sample has of it, in a worker; raises some Exception where the sample is broken;
- `batch(contents)`: a list of contents as `encode` takes it, in a worker;
- `encode(clip, batch)`: {name: tensor}, on the CPU, float16 where it is no number of something;
- `blank`: some content, so that a shard without any still has a file with the right shapes.
"""

import signal

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .shards import read_samples
from .skipped import Skipped
from .table import where_is

BATCH = 256  # pictures, or captions, that are encoded at once
AHEAD = 4  # batches that each worker prepares


def encoded_shards(jobs, clip, workers=0, batch_size=BATCH, progress=lambda count: None):
    """Yield (shard, {kind: (keys, {name: tensor})}, Skipped) of each shard as it is finished; a key for every content.

    jobs: (shard, kinds) pairs, each shard once. workers: processes that decode, each a shard of its own (0: this one does).
    The batches are those of a shard alone, so the tensors are the same however many workers there are. progress: told how many
    contents of a shard's first kind were encoded.
    """
    kinds_of, under_way = dict(jobs), {shard: {kind: [] for kind in kinds} for shard, kinds in jobs}
    for shard, kind, keys, encoded in encoded_batches(jobs, clip, workers, batch_size):
        if kind is not None:
            under_way[shard][kind].append((keys, encoded))
            progress(len(keys) if kind == kinds_of[shard][0] else 0)
            continue
        yield shard, {kind: joined(kind, clip, parts) for kind, parts in under_way.pop(shard).items()}, encoded


def encoded_batches(jobs, clip, workers=0, batch_size=BATCH):
    """Yield (shard, kind, keys, {name: tensor}), in each shard's order; at a shard's end (shard, None, [], Skipped)."""
    workers = min(workers, len(jobs))
    ahead = {"prefetch_factor": AHEAD} if workers else {}
    loader = DataLoader(
        DecodedShards(jobs, batch_size), batch_size=None, num_workers=workers, worker_init_fn=leave_signals,
        generator=torch.Generator(), pin_memory=clip.device.type == "cuda", **ahead,
    )  # fmt: skip
    for shard, kind, keys, batch in loader:
        yield shard, kind, keys, batch if kind is None else kind.encode(clip, batch)


def joined(kind, clip, parts):
    """Of the (keys, {name: tensor}) of a shard's batches: all keys, and each tensor whole."""
    encoded = [encoded for _, encoded in parts]
    if not parts:
        encoded = [{name: value[:0] for name, value in kind.encode(clip, kind.batch([kind.blank])).items()}]
    return [key for keys, _ in parts for key in keys], {name: torch.cat([e[name] for e in encoded]) for name in encoded[0]}


class DecodedShards(IterableDataset):
    """Iterates over (shard, kind, keys, batch), and (shard, None, [], Skipped) at each shard's end."""

    def __init__(self, jobs, batch_size):
        self.jobs, self.batch_size = jobs, batch_size

    def __iter__(self):
        worker = get_worker_info()
        for shard, kinds in self.jobs[worker.id :: worker.num_workers] if worker else self.jobs:
            yield from self.batches(shard, kinds)

    def batches(self, shard, kinds):
        skipped, waiting = Skipped(), {kind: ([], []) for kind in kinds}
        for sample in read_samples([shard], skipped):
            for kind in kinds:
                keys, contents = waiting[kind]
                try:
                    found = kind.contents(sample)
                except Exception as error:  # a broken sample must not end the run
                    skipped(error, where_is(sample))
                    continue
                keys += [sample["__key__"]] * len(found)
                contents += found
                full = len(keys) - len(keys) % self.batch_size  # a sample may have any number of lines
                for start in range(0, full, self.batch_size):
                    end = start + self.batch_size
                    yield shard, kind, keys[start:end], kind.batch(contents[start:end])
                del keys[:full], contents[:full]
        for kind, (keys, contents) in waiting.items():
            if keys:
                yield shard, kind, keys, kind.batch(contents)
        yield shard, None, [], skipped


def leave_signals(worker):
    """Ctrl-C and a first SIGTERM, which schedulers send to all processes of a run, are for the main process, which saves and
    ends its workers itself; another SIGTERM ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
