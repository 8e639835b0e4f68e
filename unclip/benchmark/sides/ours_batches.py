"""Batches of pictures as our trainers take them, without their embeddings, for the measurement of how fast they come."""

import time
from itertools import count

import torch

from unclip.data.captions import ClassCaptions
from unclip.data.shards import find_shards
from unclip.data.stream import AHEAD, StreamBatches
from unclip.data.table import TableBatches, load_table


def build(folder, size, batch, batches, workers, threads):
    """folder: of shards; workers: processes that stream them; None: from memory, where they are decoded before."""
    torch.set_num_threads(threads)
    if workers is None:
        source = TableBatches(load_table(folder, "train", size), batch, seed=0, captions=False)
    else:
        shards, names = find_shards(folder, "train"), ClassCaptions.of_folder(folder)
        source = StreamBatches(shards, size, batch, seed=0, class_captions=names, captions=False, workers=workers)
    steps = count()

    def take():
        for _ in range(AHEAD * (workers or 0)):  # prepared while nobody asked
            source.at(next(steps))
        start = time.perf_counter()
        for _ in range(batches):
            assert source.at(next(steps))["image"].shape == (batch, 3, size, size)
        return {"batches": time.perf_counter() - start}

    return take, 0
