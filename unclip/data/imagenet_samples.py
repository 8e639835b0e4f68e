"""The public collection imagenet-sample-images: one photograph for each of ImageNet's 1,000 classes.

One photograph teaches a class badly, but words that other sets lack (ship, airplane, horse) have several.
"""

import re
from pathlib import Path

import yaml

from ..errors import UserError
from ..files import read_lines
from .captions import ClassCaptions
from .prepare import CLASS_TABLE, write_labelled
from .skipped import Skipped
from .zips import member, open_zip

TABLES = CLASS_TABLE.parent / "imagenet-samples"
FILE_NAME = re.compile(r"(n\d{8})_([^/]+)\.jpe?g", re.IGNORECASE)
HELD_OUT = 20  # of so many pictures the first is for validation


def imagenet_samples(source, out, say=print):
    """Write the collection as labelled shards: `train`, and every twentieth picture as `test`.

    source: a zip of files named by WordNet id and name, as n02389026_sorrel.jpg. The captions use Tiny ImageNet's names
    for its classes, and common nouns by data/imagenet-samples/nouns.yaml.

    Raises:
        UserError: no such file, no zip, or no such pictures in it.
    """
    try:
        archive = open_zip(source)
    except ValueError as error:
        raise UserError(f"{source} is not a whole zip ({error}): download it again") from None
    found = sorted((match[1], name, match[2]) for name in archive.namelist() if (match := FILE_NAME.fullmatch(Path(name).name)))
    if len(found) < 2:
        raise UserError(f"{source} has no pictures named as n02389026_sorrel.jpg: is it imagenet-sample-images?")
    tiny = yaml.safe_load((CLASS_TABLE / "classes.yaml").read_text(encoding="utf-8"))
    called = yaml.safe_load((TABLES / "names.yaml").read_text(encoding="utf-8"))
    nouns = yaml.safe_load((TABLES / "nouns.yaml").read_text(encoding="utf-8"))
    names, above = [], []
    for wnid, _, file in found:
        known = tiny.get(wnid, {"names": [called.get(wnid, file.replace("_", " "))], "nouns": []})
        names.append(known["names"])
        above.append(known["nouns"] + [n for n, ids in nouns.items() if within(wnid, ids) and n not in known["nouns"]])
    captions = ClassCaptions(
        names=names, nouns=above, templates=read_lines(CLASS_TABLE / "templates.txt"),
        no_article=read_lines(CLASS_TABLE / "no_article.txt"),
    )  # fmt: skip

    skipped = Skipped()

    def samples(test):
        for label, (wnid, name, _) in enumerate(found):
            if (label % HELD_OUT == 0) != test:
                continue
            try:
                yield {"__key__": wnid, "jpg": member(archive, name), "cls": str(label).encode()}
            except ValueError as error:
                skipped(error, Path(name).name)

    with archive:
        write_labelled(out, captions, {"train": samples(test=False), "test": samples(test=True)}, skipped, say)


def within(wnid, ids):
    """Whether a WordNet id is one of some, which are ids or ranges of ids: "n02085620-n02113978"."""
    ends = (entry.split("-") for entry in ids)
    return any(pair[0] <= wnid <= pair[-1] for pair in ends)
