"""WebDataset shards: where they are, what is in them, how they are written.

A data folder is one of
- labelled, as CLIP-benchmark lays it out: `classnames.txt`, `zeroshot_classification_templates.txt`, and a folder a
  split (`train`, `test`) with `0.tar`, `1.tar`, ... of `KEY.jpg` (or png, webp) and `KEY.cls`;
- captioned, as img2dataset writes it: `00000.tar`, ... of `KEY.jpg` and `KEY.txt`, in the folder or in a split's.
"""

import io
import tarfile
from pathlib import Path

from ..errors import UserError
from ..files import new_folder

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")


def find_shards(folder, split):
    """The sorted `.tar` files of a split of a data folder; a folder without splits is all one split.

    Raises:
        UserError: there is no such folder, or no shard in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no data folder {folder}: make one with scripts/prepare_data.py")
    inside = folder / split if (folder / split).is_dir() else folder
    if inside is folder and (folder / "classnames.txt").is_file():
        raise UserError(f"{folder} has no split {split!r}: it has {', '.join(splits(folder)) or 'none'}")
    shards = sorted(inside.glob("*.tar"), key=lambda p: (len(p.name), p.name))
    if not shards:
        raise UserError(f"no .tar shards in {inside}: make them with scripts/prepare_data.py")
    return shards


def splits(folder):
    """The names of the folders of shards in a data folder."""
    return sorted(p.name for p in Path(folder).iterdir() if p.is_dir() and any(p.glob("*.tar")))


class Skipped:
    """Counts what could not be read, and remembers the first reason."""

    def __init__(self):
        self.count, self.first = 0, None

    def __call__(self, error):
        """WebDataset's handler: note the error and go on with the next sample."""
        self.count += 1
        self.first = self.first or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}"
        return True

    def report(self, say=print):
        if self.count:
            say(f"skipped {self.count} corrupt sample(s) or shard end(s); the first: {self.first}")


def read_samples(shards, skipped):
    """Yield every readable sample of the shards, in order, as a dict of bytes with `__key__` and `__url__`.

    A shard cut off in the middle gives what stands before the cut; `skipped` counts it.
    """
    import webdataset

    dataset = webdataset.WebDataset(
        [str(s) for s in shards], shardshuffle=False, handler=skipped, nodesplitter=None, workersplitter=None
    )
    yield from dataset


def image_bytes(sample):
    """The encoded picture of a sample. Raises KeyError where it has none."""
    for key in IMAGE_KEYS:
        if key in sample:
            return sample[key]
    raise KeyError(f"sample {sample.get('__key__')} has no image ({', '.join(IMAGE_KEYS)})")


def write_shards(samples, folder, samples_per_shard=10_000):
    """Write samples (dicts of extension -> bytes, with `__key__`) as `0.tar`, `1.tar`, ... and `nshards.txt`.

    The folder appears when all is written, or not at all. Returns the number of samples.
    """
    count = 0
    with new_folder(folder) as temporary:
        shard = None
        for sample in samples:
            if count % samples_per_shard == 0:
                if shard:
                    shard.close()
                shard = tarfile.open(temporary / f"{count // samples_per_shard}.tar", "w")
            for extension, content in sample.items():
                if extension != "__key__":
                    entry = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
            count += 1
        if shard is None:
            raise UserError("the source holds no readable pictures: nothing was written")
        shard.close()
        (temporary / "nshards.txt").write_text(f"{(count - 1) // samples_per_shard + 1}\n")
    return count
