"""WebDataset shards: where they are, what is in them, how they are written.

A data folder is one of
- labelled, as CLIP-benchmark lays it out: `classnames.txt`, `zeroshot_classification_templates.txt`, and a folder a
  split (`train`, `test`) with `0.tar`, `1.tar`, ... of `KEY.jpg` (or png, webp) and `KEY.cls`;
- captioned, as img2dataset writes it: `00000.tar`, ... of `KEY.jpg` and `KEY.txt`, in the folder or in a split's. Each
  line of the text is a caption of the picture.
Files of other kinds, beside the shards or in them, are passed over.
"""

import io
import re
import tarfile
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UserError, first_line
from ..files import new_folder, read_json
from .remote import is_remote, open_shard, shard_name
from .skipped import Bad

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
META = re.compile(r"__[^/]*__($|/)")  # names of what is no sample
LARGEST = 100_000_000  # bytes of a file in a shard
LONGEST = 16_384  # bytes of a long name, or of other things that a tar says of a file
SAYS_MORE = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def find_shards(folder, split):
    """The sorted `.tar` files of a split of a data folder; a folder without splits is all one split.

    A file whose name would be taken for a command ("pipe:...") is passed over.

    Raises:
        UserError: there is no such folder, or no shard in it.
    """
    if is_remote(folder):
        raise UserError(f"{folder}: only a CLIP is trained on shards at a URL; others need a data folder: fetch the shards")
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no data folder {folder}: make one with scripts/prepare_data.py")
    inside = folder / split if has_split(folder, split) else folder
    shards = sorted((p for p in inside.glob("*.tar") if not is_remote(p.name)), key=lambda p: (len(p.name), p.name))
    if inside is folder and ((folder / "classnames.txt").is_file() or (splits(folder) and not shards)):
        raise UserError(f"{folder} has no split {split!r}: it has {', '.join(splits(folder)) or 'none'}")
    if not shards:
        raise UserError(f"no .tar shards in {inside}: make them with scripts/prepare_data.py")
    return shards


def has_split(folder, split):
    """Whether a data folder has a folder for this split."""
    return (Path(folder) / split).is_dir()


def splits(folder):
    """The names of the folders of shards in a data folder."""
    return sorted(p.name for p in Path(folder).iterdir() if p.is_dir() and any(p.glob("*.tar")))


def estimated_samples(shards):
    """About how many samples the shards hold, without reading them.

    From img2dataset's statistics where they lie beside the shards; or else the first shard's samples are counted, and
    the others taken to be as full.
    """
    try:
        stats = [read_json(s.with_name(f"{s.stem}_stats.json")) for s in map(Path, shards)]
        return sum(max(0, int(s["successes"])) for s in stats)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass
    count, sizes = 0, [Path(s).stat().st_size for s in shards]
    try:
        with tarfile.open(shards[0], "r:", tarinfo=Entry) as shard:
            for entry in shard:
                count += entry.name.lower().endswith(tuple(f".{k}" for k in IMAGE_KEYS))
    except OSError:
        raise
    except Exception:  # cut off, or broken in any way: what stands before is counted
        pass
    return round(count * sum(sizes) / max(1, sizes[0]))


def read_samples(shards, skipped):
    """Yield every readable sample of the shards (paths or URLs), in order, as a dict of bytes with `__key__` and `__url__`.

    Keys are unique within a shard. A shard cut off in the middle gives what stands before the cut. What is cut off or cannot
    be fetched, and a key that comes a second time, goes to `skipped`, which is also told of every shard that is over.
    """
    for shard in shards:
        yield from read_shard(str(shard), skipped)


def read_shard(shard, skipped):
    """The samples of one shard: see `read_samples`."""
    from webdataset.tariterators import group_by_keys

    name, seen, lost = shard_name(shard), set(), False

    def ends(error):
        nonlocal lost
        lost = True
        skipped(Bad("source" if isinstance(error, OSError) else "shard cut off", reason_of(error)), name)

    def left_out(reason):
        skipped(Bad("too large", reason), name)

    def comes_twice(error):
        skipped(Bad("duplicate key", reason_of(error)), name)
        return True  # go on behind it

    try:
        stream = open_shard(shard)
    except OSError as error:
        ends(error)
        skipped.over(shard, lost)
        return
    try:
        for sample in group_by_keys(files_in(stream, shard, ends, left_out), handler=comes_twice):
            if (key := sample["__key__"]) in seen:
                comes_twice(ValueError(f"a second sample has the key {key}"))
                continue
            seen.add(key)
            yield sample
        skipped.over(shard, lost)
    finally:
        with suppress(OSError):  # of a command that somebody stopped reading
            stream.close()


def files_in(stream, url, ends, left_out):
    """The files of a tar in a binary stream, one by one, as WebDataset's `group_by_keys` takes them.

    The tar is a plain one: what is compressed could unpack to any size. ends: told what ended it too early; left_out: told of
    files larger than LARGEST, and of sparse ones, whose size is nothing but a claim.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Entry) as tar:
            for entry in tar:
                tar.members = []  # which would grow with every file
                if not entry.isreg() or META.match(entry.name):
                    continue
                if entry.issparse() or entry.size > LARGEST:
                    left_out(f"{entry.name} has {entry.size:,} bytes, more than {LARGEST:,}, or is sparse")
                    continue
                yield {"fname": entry.name, "data": tar.extractfile(entry).read(), "__url__": url}
    except Exception as error:  # a tar can be broken in any way
        ends(error)


class Entry(tarfile.TarInfo):
    """A file in a tar. What Python reads of it by itself, and searches in a time that grows with its square, is bounded."""

    def _proc_member(self, tar):
        if self.type in SAYS_MORE and self.size > LONGEST:
            raise tarfile.ReadError(f"a name, or what else it says of a file, has {self.size:,} bytes")
        return super()._proc_member(tar)


def reason_of(error):
    """The message of an error to which WebDataset has added its streams."""
    of_system = isinstance(error, OSError) and error.strerror
    message = of_system or (str(error.args[0]) if error.args else "")
    return message.split(" @ <")[0] or type(error).__name__


def image_bytes(sample):
    """The encoded picture of a sample. Raises Bad where it has none."""
    for key in IMAGE_KEYS:
        if key in sample:
            return sample[key]
    raise Bad("no picture", f"it has no image ({', '.join(IMAGE_KEYS)})")


def write_shards(samples, folder, samples_per_shard=10_000):
    """Write samples (dicts of extension -> bytes, with `__key__`) as `0.tar`, `1.tar`, ... and `nshards.txt`.

    The folder appears when all is written, or not at all. Returns the number of samples.
    """
    with shard_writer(folder, samples_per_shard) as shards:
        for sample in samples:
            shards.add(sample)
    return shards.count


@contextmanager
def shard_writer(folder, samples_per_shard=10_000):
    """A `ShardWriter` for a folder that appears when the block ends well, or not at all.

    Raises:
        UserError: at the end, if nothing was added.
    """
    with new_folder(folder) as temporary:
        writer = ShardWriter(temporary, samples_per_shard)
        try:
            yield writer
        finally:
            writer.close()
        if not writer.count:
            raise UserError("the source holds no readable pictures: nothing was written")
        (temporary / "nshards.txt").write_text(f"{-(-writer.count // samples_per_shard)}\n")


class ShardWriter:
    """Adds samples to `0.tar`, `1.tar`, ... in a folder."""

    def __init__(self, folder, samples_per_shard):
        self.folder, self.samples_per_shard, self.count, self.shard = folder, samples_per_shard, 0, None

    def add(self, sample):
        if self.count % self.samples_per_shard == 0:
            self.close()
            self.shard = tarfile.open(self.folder / f"{self.count // self.samples_per_shard}.tar", "w")
        for extension, content in sample.items():
            if extension != "__key__":
                entry = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                entry.size = len(content)
                self.shard.addfile(entry, io.BytesIO(content))
        self.count += 1

    def close(self):
        if self.shard:
            self.shard.close()
            self.shard = None
