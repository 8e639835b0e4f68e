"""From the data section of a config to batches for training and for validation."""

import random

import torch

from ..data.table import TableBatches, load_table, make_batch


def load_tables(config, say=print):
    """The training and validation tables that a RunConfig names."""
    data = config.data
    train = load_table(data.folder, data.train_split, data.image_size, say)
    val = load_table(data.folder, data.val_split, data.image_size, say)
    say(f"{len(train)} pictures to train on, {len(val)} to validate on, {data.image_size}x{data.image_size}")
    return train, val


def training_batches(table, config):
    """The endless batches of this process."""
    from accelerate import PartialState

    state = PartialState()
    return TableBatches(
        table, config.train.batch_size, config.train.seed, state.process_index, state.num_processes, config.data.mirror
    )


def validation_batches(table, config):
    """Fixed batches, a list: the same pictures, captions and order in every run."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(table), generator=generator)[: config.train.val_samples]
    rng = random.Random(0)
    return [make_batch(table, part, torch.zeros(len(part), dtype=torch.bool), rng) for part in rows.split(256)]
