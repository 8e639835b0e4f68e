"""From the data section of a config to batches for training and for validation."""

import random

import torch

from ..data.best import best_rows
from ..data.caption_embeddings import texts_file
from ..data.captions import ClassCaptions
from ..data.embeddings import attach_embeddings, embeddings_file, read_embeddings, shard_embeddings
from ..data.remote import is_remote, remote_shards, shard_name
from ..data.manifest import check_manifest
from ..data.shards import estimated_samples, find_shards, has_split
from ..data.stream import StreamBatches
from ..data.table import TableBatches, load_shards, make_batch
from ..data.texts import CaptionEncoder, Read
from ..errors import UserError, nearest
from .processes import process

IN_MEMORY = 4e9  # bytes of decoded pictures that data.in_memory=auto keeps
HELD_OUT = 1000  # pictures at most, where a set has no split for validation
STATISTICS = 200_000  # embeddings are enough for a mean and a deviation


class Source:
    """The pictures of a RunConfig, with their embeddings by `clip` if given.

    reader: makes of a batch with captions what the model reads of it, such as a CaptionEncoder; None: no captions are
    drawn, as nobody would read them.
    table: the training pictures in memory, None where they are streamed; val_table: the held-out ones.

    Raises:
        UserError: no data, or nothing readable in it.
    """

    def __init__(self, config, clip=None, reader=None, say=print):
        self.config, self.clip, self.reader, self.state = config, clip, reader, process()
        self.say = say if self.state.is_main_process else (lambda line: None)
        self.reads_texts = isinstance(reader, CaptionEncoder)  # of CLIP's text tower, which may lie beside the shards
        data = config.data
        self.class_captions, remote = ClassCaptions.of_folder(data.folder), is_remote(data.folder)
        if remote:
            self._check_remote()
        self.shards = remote_shards(data.folder) if remote else find_shards(data.folder, data.train_split)
        count = None if remote else estimated_samples(self.shards)
        streamed = remote or not data.in_memory
        if data.in_memory == "auto" and not remote:
            streamed = count * 3 * data.image_size**2 > IN_MEMORY
        own_split = not remote and data.val_split != data.train_split and has_split(data.folder, data.val_split)
        val_shards = find_shards(data.folder, data.val_split) if own_split else []
        if streamed and not own_split:
            val_shards = [self._last_shard()]
        self._embed([*self.shards, *val_shards], streamed)
        self.table = None if streamed else self._load(self.shards)
        if remote:
            self.val_table = self._load(val_shards, most=config.train.val_samples)
        elif streamed or own_split:
            many = max(1, estimated_samples(val_shards) // config.train.val_samples) if streamed else 1
            self.val_table = self._load(val_shards, every=many)
        else:
            self.table, self.val_table = self._hold_out(self.table)
        if data.best < 1:
            self.table = self._best(data.best)
        number = f"about {count}, streamed," if streamed else len(self.table)
        pictures = f"{len(self.shards)} shards from afar, streamed," if remote else f"{number} pictures"
        if data.repeat:
            self.table = self._repeated(data.repeat)
        size = f"{data.image_size}x{data.image_size}"
        self.say(f"{pictures} to train on, {len(self.val_table)} to validate on, {size}")

    def training(self):
        """The endless batches of this process."""
        settings, data, rank = self.config.train, self.config.data, self.state.process_index
        if self.table is not None:
            batches = TableBatches(
                self.table, settings.batch_size, settings.seed, rank, self.state.num_processes, data.mirror,
                captions=self.reader is not None,
            )  # fmt: skip
        else:
            batches = StreamBatches(
                self.shards, data.image_size, settings.batch_size, settings.seed, rank=rank,
                world=self.state.num_processes, class_captions=self.class_captions,
                fingerprint=self.clip and self.clip.image_fingerprint(), text_fingerprint=self._texts_of(),
                mirror=data.mirror, captions=self.reader is not None, workers=data.workers, max_bad=data.max_bad,
                say=self.say,
            )  # fmt: skip
        return batches if self.reader is None else Read(batches, self.reader)

    def validation(self):
        """Fixed batches, a list: the same pictures, captions and order in every run."""
        generator, rng = torch.Generator().manual_seed(0), None if self.reader is None else random.Random(0)
        rows = torch.randperm(len(self.val_table), generator=generator)[: self.config.train.val_samples]
        unturned = [(part, torch.zeros(len(part), dtype=torch.bool)) for part in rows.split(256)]
        batches = [make_batch(self.val_table, part, flip, rng) for part, flip in unturned]
        return batches if self.reader is None else [self.reader(batch) for batch in batches]

    def image_embeds(self):
        """CLIP's embeddings (N, D) of the training pictures; of a streamed set, as many as make good statistics."""
        if self.table is not None:
            return self.table.image_embed[:, 0]
        embeds, fingerprint = [], self.clip.image_fingerprint()
        for shard in self.shards:
            embeds.append(read_embeddings(shard, fingerprint).image_embed[:, 0])
            if sum(map(len, embeds)) >= STATISTICS:
                break
        return torch.cat(embeds)

    def words(self):
        """Every word of the training captions; None for a streamed set with its own captions, which nobody has read."""
        if self.class_captions is not None:
            return self.class_captions.words()
        return None if self.table is None else self.table.words()

    def _texts_of(self):
        """The fingerprint of the CLIP whose texts of captions may lie beside the shards; None where nobody reads these."""
        if not self.reads_texts or self.class_captions is not None:
            return None
        fingerprint = self.clip.fingerprint()
        there = sum(texts_file(shard, fingerprint).is_file() for shard in self.shards)
        if there:
            self.say(f"texts of captions lie beside {there} of {len(self.shards)} shards: what they have is not encoded again")
        return fingerprint if there else None

    def _check_remote(self):
        """Refuse what needs the shards in a folder."""
        folder = self.config.data.folder
        if self.clip is not None:
            raise UserError(f"data.folder is {folder}, but CLIP's embeddings are kept beside shards: fetch these to a folder")
        if self.config.data.in_memory is True:
            raise UserError(f"data.folder is {folder}, which is streamed: leave data.in_memory=true out, or fetch the shards")

    def _embed(self, shards, streamed):
        """Make the embeddings that are missing, each process those of its share of the shards."""
        if self.clip is None:
            return
        if self.state.is_main_process:
            check_manifest(self.config.data.folder, self.clip, self.reads_texts)
        fingerprint = self.clip.image_fingerprint()
        for shard in shards[self.state.process_index :: self.state.num_processes]:
            shard_embeddings(shard, self.clip, fingerprint, self.say)
        self.state.wait_for_everyone()
        missing = [s for s in shards if streamed and not embeddings_file(s, fingerprint).is_file()]
        if missing:
            raise UserError(f"no embeddings beside {missing[0]}: streaming needs a data folder that can be written")

    def _load(self, shards, every=1, most=None):
        data = self.config.data
        table = load_shards(shards, data.image_size, self.class_captions, self.say, every, most, data.max_bad)
        if self.clip is not None:
            attach_embeddings(table, self.clip, self.say)
        return table

    def _best(self, share):
        """The training pictures that CLIP finds nearest to their captions."""
        if self.table is None or self.clip is None:
            raise UserError(
                "data.best is for sets in memory and parts with a CLIP: set data.in_memory=true, or leave it out"
            )
        return self.table.take(best_rows(self.table, self.clip, share))

    def _repeated(self, times):
        """The training pictures, those of some concepts several times; of a class with several, the most."""
        if self.table is None or self.table.class_captions is None:
            raise UserError("data.repeat is for labelled sets in memory: leave it out, or set data.in_memory=true")
        captions = self.table.class_captions
        for concept in times:
            if concept not in captions.all_concepts():
                known = nearest(concept, captions.all_concepts())
                raise UserError(f"data.repeat: {concept!r} is no class and no noun of {self.config.data.folder}{known}")
        of_class = [max([times.get(c, 1) for c in captions.concepts(k)]) for k in range(len(captions.names))]
        counts = torch.tensor(of_class)[self.table.labels]
        return self.table.take(torch.arange(len(counts)).repeat_interleave(counts))

    def _last_shard(self):
        if len(self.shards) < 2:
            or_else = "" if is_remote(self.config.data.folder) else ", or set data.in_memory=true"
            raise UserError(
                f"{self.config.data.folder} has one shard and no split {self.config.data.val_split!r}: streaming needs "
                f"a split or a second shard to validate on{or_else}"
            )
        self.say(f"no split {self.config.data.val_split!r}: {shard_name(self.shards[-1])} is held out for validation")
        return self.shards.pop()

    def _hold_out(self, table):
        """(the rest, every 20th picture; rarer ones where that would be more than HELD_OUT)."""
        every = max(20, -(-len(table) // HELD_OUT))
        rows = torch.arange(len(table))
        held_out = rows % every == min(every, len(table)) - 1
        self.say(
            f"no split {self.config.data.val_split!r} in {self.config.data.folder}: {int(held_out.sum())} pictures, one "
            f"in {every}, are held out for validation"
        )
        return table.take(rows[~held_out] if len(table) > 1 else rows), table.take(rows[held_out])
