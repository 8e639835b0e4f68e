"""What `scripts/embed.py --dry-run` says: the time, the disk and the money that embeddings cost."""

import contextlib
import io
import itertools
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from .cli import dtype_of
from .data.beside import file_bytes
from .data.encoding import BATCH, encoded_batches
from .data.images import to_pil
from .data.manifest import all_shards
from .data.shards import estimated_samples, find_shards, write_shards
from .embed import kinds_of, load, workers_of
from .errors import UserError
from .openclip.architecture import architecture_of, sizes_of

SHARD, SHARD_BYTES = 10_000, 300_000_000  # samples, and about the bytes, of a full shard of img2dataset's
TOKENS = 20  # of a caption, start and end included
SECONDS = 5  # that are measured
MADE_UP = 256  # pictures, and their side, where there are none to measure with


def cost(
    *, data, clip_name, pretrained, unit_variance, split, texts, workers, device, dtype, pairs, rate, price, gpus, say=print
):  # fmt: skip
    """Print what it costs to embed `pairs` pictures, and with `texts` their captions. Nothing is written.

    data: a folder of shards to measure with and, where pairs is None, to count; or None. rate: pictures a second on a GPU,
    None: measured with the CLIP's weights, which are not needed else. price: of an hour of a GPU, in dollars, or None; gpus: how
    many run at once. The rest: see `embed`.

    Raises:
        UserError: numbers that are not positive, or nothing to count; and as `embed`.
    """
    for name, value in (("pairs", pairs), ("rate", rate), ("price", price), ("gpus", gpus)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} is {value}: give a number above 0")
    if data is None and pairs is None:
        raise UserError("how many pictures? give --pairs N, or --data DIR to count its own")
    shards = [] if data is None else find_shards(data, split) if split else all_shards(data)
    pairs = round(pairs) if pairs else estimated_samples(shards)
    on, how = "GPU", "--rate"
    if rate is not None:  # then nothing need be fetched for it
        dim, width, _ = sizes_of(architecture_of(clip_name), clip_name)
    else:
        clip = load(clip_name, pretrained, unit_variance, device)
        clip.to(getattr(torch, dtype_of(dtype, clip.device)))
        dim, width = clip.embed_dim, clip.encode_text([""]).states.shape[-1]
        if clip.device.type != "cuda":
            on = f"computer like this, on its {clip.device.type}"
        workers = workers_of(workers, clip.device)
        rate = measured_rate(clip, kinds_of(clip, texts), shards, workers)
        source = f"pictures of {data}" if shards else f"made-up JPEGs of {MADE_UP}x{MADE_UP}"
        how = f"measured for {SECONDS} s on {clip.device}, {clip.dtype}, {workers} worker(s), {source}".replace("torch.", "")
    say(f"{pairs:,} pictures{' and captions' if texts else ''}:")
    say(f"disk   {human(disk(pairs, picture_shapes(dim)))} of embeddings: {4 * dim + 4:,} bytes a picture, and its key")
    if texts:
        say(f"       {human(disk(pairs, text_shapes(dim, width)))} of texts: {2 * dim + 8:,} bytes a caption and {2 * width:,} "
            f"a token, and its key")  # fmt: skip
    hours = pairs / rate / 3600
    say(f"rate   {rate:,.0f} pictures a second on one {on} ({how})")
    say(f"time   {hours:,.1f} hours of one {on}; {hours / gpus:,.1f} of {gpus}")
    say(f"money  ${hours * price:,.2f} at ${price:,.2f} an hour of each (--price)" if price else "money  untold: give --price")
    captions = f", one caption a picture, of {TOKENS} tokens with its start and end" if texts else ""
    say(f"assumed: shards of {SHARD:,} samples, keys of 9 characters{captions}; the disk keeps up, and several "
        "run at as many times the rate of one, each with as many cores")  # fmt: skip


def disk(pairs, shapes, shard=SHARD, shard_bytes=SHARD_BYTES):
    """Bytes of the files beside shards of `shard` samples each, the last one less; shapes: of n samples, see below."""
    size = lambda count: file_bytes(shapes(count), ["0" * 9] * count, shard_bytes, "bfloat16")  # noqa: E731
    full, rest = divmod(pairs, shard)
    return full * size(shard) + (size(rest) if rest else 0)


def picture_shapes(dim):
    """A function: how many pictures -> the shapes of their file's tensors, as `file_bytes` takes them."""
    return lambda count: {"sums": ("I32", 4, (count,)), "image_embed": ("F16", 2, (count, 2, dim))}


def text_shapes(dim, width, tokens=TOKENS):
    """The same of captions of so many tokens each."""
    return lambda count: {
        "lengths": ("I32", 4, (count,)), "sums": ("I32", 4, (count,)), "embed": ("F16", 2, (count, dim)),
        "states": ("F16", 2, (count * tokens, width)),
    }  # fmt: skip


def human(size):
    """Bytes in words: 1.23 TB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def measured_rate(clip, kinds, shards, workers, seconds=SECONDS):
    """Samples a second, read, decoded and encoded, after a first batch that does not count."""
    with made_up(workers) if not shards else contextlib.nullcontext(shards) as shards:
        jobs = [(shard, kinds) for shard in itertools.islice(itertools.cycle(shards), max(1, workers) * 1000)]
        batches = encoded_batches(jobs, clip, workers, batch_size=BATCH if clip.device.type == "cuda" else 32)
        count, begin = 0, None
        for _, kind, keys, _ in batches:
            if begin is None:
                begin = time.perf_counter()
            elif kind == kinds[0]:
                count += len(keys)
            if count and time.perf_counter() - begin > seconds:
                break
        spent = time.perf_counter() - begin
        batches.close()
    if not count:
        raise UserError(f"no readable pictures in {shards[0]}: prepare the data again, or leave --data out")
    return count / spent


@contextlib.contextmanager
def made_up(workers):
    """Paths of shards of smooth noise with captions, one a worker, that last as long as the block."""
    generator = torch.Generator().manual_seed(0)

    def samples():
        for number in range(512 * max(1, workers)):
            image = to_pil(torch.randn(1, 3, 32, 32, generator=generator).clamp(-1, 1))[0]
            out = io.BytesIO()
            image.resize((MADE_UP, MADE_UP), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
            yield {"__key__": f"{number:09d}", "jpg": out.getvalue(), "txt": b"a photo of a small dog on a green lawn"}

    with tempfile.TemporaryDirectory() as folder:
        write_shards(samples(), Path(folder) / "shards", 512)
        yield find_shards(Path(folder) / "shards", "train")
