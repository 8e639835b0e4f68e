"""From the data section of a config to batches for training and for validation."""

import random

import torch

from ..data.embeddings import attach_embeddings
from ..data.table import TableBatches, load_table, make_batch
from ..data.texts import CaptionEncoder, WithTexts


class Source:
    """The pictures of a RunConfig, in memory, with their embeddings by `clip` if given, and encoded captions if asked.

    table, val_table: the training and the held-out pictures.
    """

    def __init__(self, config, clip=None, texts=False, say=print):
        from accelerate import PartialState

        self.config, self.clip, self.texts, self.state = config, clip, texts, PartialState()
        say = say if self.state.is_main_process else (lambda line: None)
        data = config.data
        with self.state.main_process_first():  # the first one writes the embeddings, the others read them
            self.table = self._load(data.train_split, say)
            self.val_table = self._load(data.val_split, say)
        size = f"{data.image_size}x{data.image_size}"
        say(f"{len(self.table)} pictures to train on, {len(self.val_table)} to validate on, {size}")

    def _load(self, split, say):
        table = load_table(self.config.data.folder, split, self.config.data.image_size, say)
        if self.clip is not None:
            attach_embeddings(table, self.clip, say)
        return table

    def training(self):
        """The endless batches of this process."""
        settings = self.config.train
        batches = TableBatches(
            self.table, settings.batch_size, settings.seed, self.state.process_index, self.state.num_processes,
            self.config.data.mirror,
        )  # fmt: skip
        return WithTexts(batches, self.clip) if self.texts else batches

    def validation(self):
        """Fixed batches, a list: the same pictures, captions and order in every run."""
        generator, rng = torch.Generator().manual_seed(0), random.Random(0)
        rows = torch.randperm(len(self.val_table), generator=generator)[: self.config.train.val_samples]
        unturned = [(part, torch.zeros(len(part), dtype=torch.bool)) for part in rows.split(256)]
        batches = [make_batch(self.val_table, part, flip, rng) for part, flip in unturned]
        return [CaptionEncoder(self.clip)(batch) for batch in batches] if self.texts else batches
