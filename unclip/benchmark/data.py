"""How fast batches of pictures come, from memory and from shards, for whoever asks whether a GPU would wait for them."""

import io
import random
import tempfile
from functools import partial
from pathlib import Path

from ..data.images import read_image, square
from ..data.shards import find_shards, write_shards
from ..hub import PHOTOS
from .asked import at_least_one
from .machine import machine
from .report import keep, spread
from .turns import Side, in_turn

PHOTOGRAPH = PHOTOS / "cat.jpg"
PICTURES, SHARD, SIDE = 8192, 1024, 64  # made up: as many, in shards of so many, as large as Tiny ImageNet's
BATCH, BATCHES = 512, 16  # pictures a batch, batches a run


def data(folder, size, rounds, out):
    """What `scripts/benchmark.py data` does: measure, print a table, and write it to a folder; returns the paths.

    folder: of shards; None: made up from a photograph. size: the side that pictures are decoded to.

    Raises:
        UserError: no rounds or pixels, or no shards in the folder.
    """
    at_least_one(rounds=rounds, pixels=size)
    described = machine()
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            write_shards(pictures(), Path(made) / "train", SHARD)
        else:
            find_shards(folder, "train")  # says so here where there are none
        measured = measure(folder or made, size, described["cores"], rounds)
    asked = {"data": folder or f"{PICTURES} made-up JPEGs of {SIDE}x{SIDE}", "size": size, "rounds": rounds}
    return keep(out, "data", described, asked, measured, table(measured))


def measure(folder, size, cores, rounds):
    """As `in_turn` gives it, for batches from memory and for those streamed by 1, 2, ... processes, up to one a core; one way
    after the other, since processes that stream prepare batches while another way has its turn."""
    workers = [count for count in (1, 2, 4, 8, 16) if count <= cores]
    ways = {"from memory": None, **{f"streamed, processes: {count}": count for count in workers}}
    same = {"folder": str(folder), "size": size, "batch": BATCH, "batches": BATCHES, "threads": 1}
    measured = {}
    for name, count in ways.items():
        measured |= in_turn({name: partial(Side, "ours_batches.py", {**same, "workers": count})}, rounds, name)
    return measured


def table(measured):
    """Lines of Markdown."""
    lines = [f"| batches of {BATCH} pictures | pictures a second (least to most) |", "|---|---|"]
    for name, side in measured.items():
        rates = spread([BATCH * BATCHES / run["parts"]["batches"] for run in side["runs"]])
        lines.append("| {} | {:,.0f} ({:,.0f} to {:,.0f}) |".format(name, *rates))
    return lines


def pictures():
    """Samples of shards: crops of a photograph, as JPEG, and a caption each."""
    rng, photograph = random.Random(0), square(read_image(PHOTOGRAPH), 2 * SIDE)
    for number in range(PICTURES):
        x, y = rng.randrange(SIDE), rng.randrange(SIDE)
        encoded = io.BytesIO()
        photograph.crop((x, y, x + SIDE, y + SIDE)).save(encoded, "JPEG", quality=95)
        yield {"__key__": f"{number:05d}", "jpg": encoded.getvalue(), "txt": b"a photo of a cat"}
