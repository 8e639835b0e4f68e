"""Several labelled sets as one."""

from pathlib import Path

from ..errors import UserError
from .captions import ClassCaptions
from .prepare import write_labelled
from .shards import find_shards, has_split, read_samples
from .skipped import Skipped


def join(folders, out, say=print):
    """Write the samples of labelled folders as one folder; classes with the same first name become one.

    The classes keep their order, those of the first folder first. Of a class in several folders, all names and nouns
    are used; the shares of nouns and of readings are the first folder's. A folder named several times has its training
    pictures in it as often.

    Raises:
        UserError: a folder is missing or not labelled, or `out` is one of them.
    """
    folders = [Path(folder) for folder in folders]
    if Path(out).resolve() in [folder.resolve() for folder in folders]:
        raise UserError(f"--out {out} is one of the folders to join: choose another")
    captions = [ClassCaptions.of_folder(folder) for folder in folders]
    for folder, own in zip(folders, captions):
        find_shards(folder, "train")
        if own is None:
            raise UserError(f"{folder} is not labelled (it has no classnames.txt): join takes labelled sets")
    names, nouns = {}, {}
    for own in captions:
        for label, (first, *_) in enumerate(own.names):
            names.setdefault(first, {}).update(dict.fromkeys(own.names[label]))
            nouns.setdefault(first, {}).update(dict.fromkeys(own.nouns[label]))
    place = {first: label for label, first in enumerate(names)}
    joined = ClassCaptions(
        names=[list(n) for n in names.values()],
        nouns=[[noun for noun in n if noun not in names[first]] for first, n in nouns.items()],
        templates=list(dict.fromkeys(t for own in captions for t in own.templates)),
        no_article=list(dict.fromkeys(n for own in captions for n in own.no_article)),
        noun_share=captions[0].noun_share, reading_share=captions[0].reading_share,
    )  # fmt: skip
    first_names = [{str(k).encode(): n[0] for k, n in enumerate(own.names)} for own in captions]
    with_test = any(has_split(folder, "test") for folder in folders)
    if not with_test and has_split(out, "test"):
        raise UserError(f"{out} has a split 'test', and what is joined has none: choose another --out")
    skipped = Skipped()

    def samples(split):
        for number, (folder, own) in enumerate(zip(folders, captions)):
            if not has_split(folder, split) or (split != "train" and folder in folders[:number]):
                continue
            for sample in read_samples(find_shards(folder, split), skipped):
                try:
                    label = place[first_names[number][sample["cls"].strip()]]
                except KeyError as error:
                    skipped(error, sample["__key__"])
                    continue
                # other sets' files of that kind hold no readings
                foreign = () if own.reading_share else ("json",)
                content = {k: v for k, v in sample.items() if not k.startswith("__") and k not in foreign}
                yield {**content, "__key__": f"{number}-{sample['__key__']}", "cls": str(label).encode()}

    splits = ("train", "test") if with_test else ("train",)
    write_labelled(out, joined, {split: samples(split) for split in splits}, skipped, say)
