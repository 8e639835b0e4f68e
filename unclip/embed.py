"""What `scripts/embed.py` does: shards in, CLIP's embeddings beside them."""

import os
from pathlib import Path

import torch
from tqdm import tqdm

from .clip import FrozenCLIP
from .cli import check_writable, device_of, dtype_of
from .data.beside import write_beside
from .data.captions import ClassCaptions
from .data.caption_embeddings import Captions
from .data.embeddings import Pictures, dtype_name
from .data.encoding import encoded_shards
from .data.manifest import all_shards, write_manifest
from .data.shards import estimated_samples, find_shards
from .data.skipped import Skipped
from .errors import UserError
from .files import remove_unfinished


def embed(*, data, clip_name, pretrained, unit_variance, split, texts, workers, device, dtype, say=print):
    """Embed the pictures of a data folder, and with `texts` its captions; a manifest is written when all is there.

    Shards with a file are passed over; half-written files of a run that was killed are removed, so that no second run may be
    at work on the same folder. Of several processes (as torchrun and accelerate launch start them) each takes its share of the
    shards, and the last to finish writes the manifest: none waits for another. split: None for all; unit_variance: see
    clip.py; workers: see `workers_of`.

    Raises:
        UserError: no such folder, split, CLIP or device, a folder that may not be written to, or labels in place of captions.
    """
    shards = find_shards(data, split) if split else all_shards(data)
    if texts and ClassCaptions.of_folder(data) is not None:
        raise UserError(f"{data} has labels, whose captions are made while training: leave --texts out")
    check_writable(Path(shards[0]).parent, "--data")
    clip = load(clip_name, pretrained, unit_variance, device)
    kinds = {kind: kind.fingerprint(clip) for kind in kinds_of(clip, texts)}  # first: weights of another dtype have another
    clip.to(getattr(torch, dtype_of(dtype, clip.device)))
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine, who = shards[rank::world], f"process {rank} of {world}: " if world > 1 else ""
    remove_unfinished(kind.file(shard, fingerprint) for shard in mine for kind, fingerprint in kinds.items())
    jobs = [(shard, [k for k, f in kinds.items() if k.read(shard, f) is None]) for shard in mine]
    jobs = [(shard, missing) for shard, missing in jobs if missing]
    say(f"{who}{len(mine) - len(jobs)} of {len(mine)} shards are embedded already; {dtype_name(clip)} on {clip.device}")
    skipped = write_all(jobs, kinds, clip, workers_of(workers, clip.device), rank)
    skipped.report(lambda line: say(who + line))
    for kind, fingerprint in kinds.items():
        if all(kind.file(shard, fingerprint).is_file() for shard in shards):
            say(f"{who}wrote {write_manifest(data, clip.identity, fingerprint, type(kind))}")
        else:
            say(f"{who}finished; the last process writes the manifest")


def load(clip_name, pretrained, unit_variance, device):
    """The whole FrozenCLIP, on a device; of several GPUs, on this process' own."""
    device = device_of(device)
    if device.type == "cuda" and device.index is None:
        device = device_of(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return FrozenCLIP(clip_name, pretrained, unit_variance=unit_variance, device=device).whole()


def kinds_of(clip, texts):
    return [Pictures.of(clip), *([Captions()] if texts else [])]


def workers_of(workers, device):
    """How many processes decode: as many as asked for; None: on a GPU this process' share of the cores, else one."""
    if workers is not None:
        return workers
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if device.type == "cuda" else 1


def write_all(jobs, kinds, clip, workers, rank):
    """Embed and write the shards of some (shard, kinds) pairs, behind a bar; kinds: their fingerprints. What was Skipped."""
    total = Skipped()
    if not jobs:
        return total
    count = estimated_samples([shard for shard, _ in jobs])
    with tqdm(total=count, desc="CLIP embeddings", unit="samples", disable=rank > 0) as bar:
        for number, (shard, encoded, skipped) in enumerate(encoded_shards(jobs, clip, workers, progress=bar.update), 1):
            for kind, (keys, tensors) in encoded.items():
                write_beside(shard, kind.file(shard, kinds[kind]), keys, tensors, dtype_name(clip))
            bar.set_postfix_str(f"{number} of {len(jobs)} shards")
            total.join(skipped)
    return total
