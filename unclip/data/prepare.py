"""Sources of pictures, written as shards: Tiny ImageNet's zip, and folders of captioned images."""

import csv
import http.client
import io
import json
import os
import shutil
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml
from PIL import Image
from tqdm import tqdm

from ..cli import disk_is_full
from ..errors import UserError
from ..files import new_file, parse_json, read_lines, read_text
from .attributes import read_attributes
from .captions import ClassCaptions
from .images import IMAGE_SUFFIXES, opened, to_rgb
from .shards import shard_writer, write_shards
from .skipped import Skipped
from .zips import member, open_zip

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
CLASS_TABLE = Path(__file__).resolve().parents[2] / "data" / "tiny-imagenet"
READING_SHARE = 0.5
# Prompts for zero-shot classification; CLIP-benchmark writes {c} for the name.
ZERO_SHOT_TEMPLATES = [
    "a photo of a {c}.", "a picture of a {c}.", "a good photo of a {c}.", "a small photo of a {c}.",
    "a photo of the {c}.", "a {c}.", "{c}",
]  # fmt: skip


def tiny_imagenet(source, out, classes=None, say=print):
    """Write Tiny ImageNet as labelled shards: `train`, and its validation pictures as `test`.

    What its bounding boxes let one read off each picture (see attributes.py) goes into a `.json` beside it.

    source: the zip; None downloads it from its official address. classes: a file of WordNet ids, one a line (what
    follows '#' is a remark), or None for all 200. Pictures that the zip gives damaged are skipped and counted.

    Raises:
        UserError: no download, no such file, not the zip, or an unknown class.
    """
    table = yaml.safe_load((CLASS_TABLE / "classes.yaml").read_text(encoding="utf-8"))
    wanted = list(dict.fromkeys(read_lines(classes))) if classes else list(table)
    unknown = [w for w in wanted if w not in table]
    if unknown:
        raise UserError(f"{classes}: {unknown[0]!r} is no class of Tiny ImageNet")
    if not wanted:
        raise UserError(f"{classes} names no classes: write WordNet ids, one a line")
    source = Path(source) if source else download(TINY_IMAGENET_URL, Path(out) / "tiny-imagenet-200.zip", say)
    try:
        archive = open_zip(source)
        names = archive.namelist()
        annotations = member(archive, "tiny-imagenet-200/val/val_annotations.txt").decode().splitlines()
    except ValueError as error:
        raise UserError(f"{source} is not a whole Tiny ImageNet zip ({error}): download it again") from None
    label_of, skipped = {wnid: label for label, wnid in enumerate(wanted)}, Skipped()

    def samples(labelled):
        for name, wnid, box in labelled:
            try:
                content = member(archive, name)
                readings = read_attributes(to_rgb(opened(io.BytesIO(content))), box) if box else {}
            except Exception as error:  # one broken picture must not end the run
                skipped(error, Path(name).name)
                continue
            facts = json.dumps({"readings": readings}).encode()
            yield {"__key__": Path(name).stem, "jpg": content, "cls": str(label_of[wnid]).encode(), "json": facts}

    pictures = [n for n in names if n.startswith("tiny-imagenet-200/train/") and n.endswith(".JPEG")]
    train = [(n, n.split("/")[2]) for n in pictures if n.split("/")[2] in label_of]
    train.sort(key=lambda pair: Path(pair[0]).stem[::-1])  # mixes the classes, repeatably
    boxes = {file: box for wnid in wanted for file, box in training_boxes(archive, wnid)}
    train = [(n, wnid, boxes.get(Path(n).name)) for n, wnid in train]
    test = [line.split("\t") for line in annotations if "\t" in line]
    test = [(f"tiny-imagenet-200/val/images/{file}", wnid, box_of(box)) for file, wnid, *box in test if wnid in label_of]
    captions = ClassCaptions(
        names=[table[w]["names"] for w in wanted],
        nouns=[table[w]["nouns"] for w in wanted],
        templates=read_lines(CLASS_TABLE / "templates.txt"),
        no_article=read_lines(CLASS_TABLE / "no_article.txt"),
        reading_share=READING_SHARE,
    )
    with archive:
        write_labelled(out, captions, {"train": samples(train), "test": samples(test)}, skipped, say)


def write_labelled(out, captions, splits, skipped, say):
    """Write a labelled folder: its splits {name: samples}, its ClassCaptions, and the files that CLIP-benchmark reads."""
    with filled(out) as folder:
        for split, samples in splits.items():
            classes = f" of {len(captions.names)} classes" if split == "train" else ""
            say(f"{split}: {write_shards(samples, folder / split)} pictures{classes}")
        skipped.report(say)
        captions.save(folder / "captions.json")
        for name, lines in [
            ("classnames.txt", [n[0] for n in captions.names]),
            ("zeroshot_classification_templates.txt", ZERO_SHOT_TEMPLATES),
            ("dataset_type.txt", ["multiclass"]),
        ]:
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def training_boxes(archive, wnid):
    """The (file name, box) pairs of a class; none where the zip has no list of them."""
    try:
        text = member(archive, f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt").decode()
    except ValueError:
        return []
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return [(file, box_of(box)) for file, *box in rows]


def box_of(texts):
    """Four numbers as a box; None where they are not four numbers in order."""
    try:
        x0, y0, x1, y1 = (int(t) for t in texts)
    except ValueError:
        return None
    return (x0, y0, x1, y1) if 0 <= x0 <= x1 and 0 <= y0 <= y1 else None


def image_folder(folder, out, val_share=0.05, size=None, say=print):
    """Write a folder of captioned images as captioned shards, `train` and `test` (every 1/val_share-th picture).

    Captions come from `metadata.jsonl` or `metadata.csv` (columns `file_name` and `text` or `caption`, the Hugging
    Face imagefolder form), or else from a `.txt` beside each image, a caption a line. size: shrink pictures whose
    shorter side is longer. Pictures that cannot be read, or have no caption, are skipped, counted and reported.

    Raises:
        UserError: no such folder, no captions, nothing readable, or something else lies where the shards would.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name one with pictures and their captions")
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share}: choose a share between 0 and 1, such as 0.05")
    if size is not None and size < 1:
        raise UserError(f"--size {size}: choose the shorter side in pixels, such as 512")
    if (Path(out) / "classnames.txt").exists():
        raise UserError(f"{out} holds a labelled data set: choose another --out")
    pairs = captioned_files(folder)
    skipped, every, good, sample = Skipped(), max(2, round(1 / val_share)), 0, None
    with filled(out) as new, shard_writer(new / "train", 1000) as train, shard_writer(new / "test", 1000) as test:
        for number, (path, captions) in enumerate(tqdm(pairs, unit="images", desc=str(folder))):
            try:
                text = one_a_line(captions)
                sample = {"__key__": f"{number:08d}", "jpg": jpeg(path, size), "txt": text.encode()}
            except Exception as error:  # one broken file must not end the run
                skipped(error, path.name)
                continue
            (train if good % every else test).add(sample)
            good += 1
        if good == 1:
            train.add(sample)  # there is no other
        skipped.report(say)
    say(f"train: {train.count} pictures")
    say(f"test: {test.count} pictures")


@contextmanager
def filled(out):
    """An empty folder to fill; its entries take the place of those of that name in `out` when the block ends well.

    Raises:
        UserError: a folder in `out` that would be replaced holds no shards.
    """
    out = Path(out)
    for split in ("train", "test"):
        if (out / split).is_dir() and any((out / split).iterdir()) and not any((out / split).glob("*.tar")):
            raise UserError(f"{out / split} holds something else than shards: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out, prefix=".new."))
    try:
        yield temporary
        (temporary / "old").mkdir()
        for entry in [e for e in temporary.iterdir() if e.name != "old"]:
            if (out / entry.name).exists():
                os.replace(out / entry.name, temporary / "old" / entry.name)
            os.replace(entry, out / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def captioned_files(folder):
    """The (path, captions) pairs of a folder, sorted by path; captions is a list, or the Path of a text file.

    Raises:
        UserError: no images, no captions for any, or metadata in another form.
    """
    metadata = sorted(folder.rglob("metadata.jsonl")) or sorted(folder.rglob("metadata.csv"))
    if metadata:
        captions = {}
        for file in metadata:
            for row in metadata_rows(file):
                name, text = row.get("file_name"), row.get("text") or row.get("caption") or []
                if not name or not isinstance(name, str):
                    raise UserError(f"{file} needs the columns file_name and text in every row")
                captions.setdefault(file.parent / name, []).extend(text if isinstance(text, list) else [str(text)])
        if not captions:
            raise UserError(f"{metadata[0]} is empty: it needs the columns file_name and text")
        for path in captions:
            if not inside(path, folder):
                raise UserError(f"the metadata of {folder} names {path}, which is outside: move the picture into it")
        return sorted(captions.items())
    images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        raise UserError(f"no images in {folder}: it needs files such as .jpg or .png")
    if not any(p.with_suffix(".txt").is_file() for p in images):
        raise UserError(f"no captions in {folder}: it needs metadata.jsonl, metadata.csv, or a .txt beside each image")
    return [(p, p.with_suffix(".txt")) for p in images]


def inside(path, folder):
    """Whether a path, its links followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # no path: too long, a zero in it, links in a circle
        return False


def metadata_rows(file):
    """The rows of a metadata.jsonl or metadata.csv as dicts."""
    try:
        text = read_text(file, most=file.stat().st_size)
    except ValueError:
        raise UserError(f"{file} is not UTF-8 text: save it as such") from None
    if file.suffix == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise UserError(f"{file} is not CSV ({error}): is a quote left open?") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError:
                raise UserError(f"{file}, line {number}: not JSON") from None
            if not isinstance(rows[-1], dict):
                raise UserError(f"{file}, line {number}: not a JSON object with file_name and text")
    return rows


def one_a_line(captions):
    """Captions, a list or the Path of a text file, as lines. Raises ValueError where there are none."""
    if isinstance(captions, Path):
        if not captions.is_file():
            raise ValueError(f"no caption: {captions.name} is missing")
        captions = read_text(captions).splitlines()
    lines = [" ".join(str(caption).split()) for caption in captions]
    if not any(lines):
        raise ValueError("its caption is empty")
    return "\n".join(line for line in lines if line)


def jpeg(path, size):
    """A picture file as JPEG bytes (RGB); shrunk so that its shorter side is `size` where that is smaller."""
    content = Path(path).read_bytes()
    original = opened(io.BytesIO(content))
    image = to_rgb(original)
    small = not size or min(image.size) <= size
    if small and original.format == "JPEG" and original.mode == "RGB" and original.getexif().get(0x0112, 1) == 1:
        return content
    if not small:
        scale = size / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


def download(url, path, say=print):
    """Fetch a file unless it is there already. Raises UserError where there is no way to it."""
    if path.is_file():
        return path
    say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, new_file(path) as temporary:
            size = int(answer.headers.get("Content-Length") or 0)
            with open(temporary, "wb") as file, tqdm(total=size, unit="B", unit_scale=True) as bar:
                while block := answer.read(1 << 20):
                    file.write(block)
                    bar.update(len(block))
            if temporary.stat().st_size < size:
                raise OSError(f"it ended after {temporary.stat().st_size} of {size} bytes")
    except (OSError, http.client.HTTPException) as error:
        if disk_is_full(error):
            raise
        raise UserError(f"cannot download {url} ({error}): fetch it yourself and give it as --source FILE.zip") from None
    return path
