"""Sources of pictures, as samples for `write_shards`: Tiny ImageNet's zip, and folders of captioned images."""

import csv
import io
import json
import urllib.request
import zipfile
from pathlib import Path

import yaml
from PIL import Image

from ..errors import UserError
from ..files import new_file
from .captions import ClassCaptions
from .shards import Skipped, write_shards

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
CLASS_TABLE = Path(__file__).resolve().parents[2] / "data" / "tiny-imagenet"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Prompts for zero-shot classification; CLIP-benchmark writes {c} for the name.
ZERO_SHOT_TEMPLATES = [
    "a photo of a {c}.", "a picture of a {c}.", "a good photo of a {c}.", "a small photo of a {c}.",
    "a photo of the {c}.", "a {c}.", "{c}",
]  # fmt: skip


def tiny_imagenet(source, out, classes=None, say=print):
    """Write Tiny ImageNet as labelled shards: `train`, and its validation pictures as `test`.

    source: the zip; None downloads it from its official address. classes: a file of WordNet ids, one a line (what
    follows '#' is a remark), or None for all 200.

    Raises:
        UserError: no download, no such file, not the zip, or an unknown class.
    """
    table = yaml.safe_load((CLASS_TABLE / "classes.yaml").read_text(encoding="utf-8"))
    wanted = read_lines(classes) if classes else list(table)
    unknown = [w for w in wanted if w not in table]
    if unknown:
        raise UserError(f"{classes}: {unknown[0]!r} is no class of Tiny ImageNet")
    source = Path(source) if source else download(TINY_IMAGENET_URL, Path(out) / "tiny-imagenet-200.zip", say)
    try:
        archive = zipfile.ZipFile(source)
        names = archive.namelist()
        annotations = archive.read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines()
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{source} is not a whole Tiny ImageNet zip ({error}): download it again") from None
    label_of = {wnid: label for label, wnid in enumerate(wanted)}

    def train():
        for name in names:
            if "/train/" in name and name.endswith(".JPEG"):
                wnid = name.split("/")[2]
                if wnid in label_of:
                    yield sample(Path(name).stem, archive.read(name), label_of[wnid])

    def test():
        for line in annotations:
            file, wnid = line.split("\t")[:2]
            if wnid in label_of:
                yield sample(Path(file).stem, archive.read(f"tiny-imagenet-200/val/images/{file}"), label_of[wnid])

    def sample(key, content, label):
        return {"__key__": key, "jpg": content, "cls": str(label).encode()}

    shuffled = sorted(train_keys := list(train()), key=lambda s: s["__key__"][::-1])  # mixes the classes, repeatably
    say(f"train: {write_shards(shuffled, Path(out) / 'train')} pictures of {len(wanted)} classes")
    del shuffled, train_keys
    say(f"test: {write_shards(test(), Path(out) / 'test')} pictures")
    captions = ClassCaptions(
        names=[table[w]["names"] for w in wanted],
        nouns=[table[w]["nouns"] for w in wanted],
        templates=read_lines(CLASS_TABLE / "templates.txt"),
        no_article=read_lines(CLASS_TABLE / "no_article.txt"),
    )
    captions.save(Path(out) / "captions.json")
    (Path(out) / "classnames.txt").write_text("\n".join(n[0] for n in captions.names) + "\n", encoding="utf-8")
    (Path(out) / "zeroshot_classification_templates.txt").write_text("\n".join(ZERO_SHOT_TEMPLATES) + "\n")
    (Path(out) / "dataset_type.txt").write_text("multiclass\n")


def image_folder(folder, out, val_share=0.05, size=None, say=print):
    """Write a folder of captioned images as captioned shards, `train` and `test` (every 1/val_share-th picture).

    Captions come from `metadata.jsonl` or `metadata.csv` (columns `file_name` and `text` or `caption`, the Hugging
    Face imagefolder form), or else from a `.txt` beside each image. size: shrink pictures whose shorter side is
    longer. Pictures that cannot be read, or have no caption, are skipped, counted and reported.

    Raises:
        UserError: no such folder, no captions, or nothing readable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    pairs = captioned_files(folder)
    if not pairs:
        raise UserError(f"no captions in {folder}: it needs metadata.jsonl, metadata.csv, or a .txt beside each image")
    skipped, samples = Skipped(), []
    for number, (path, caption) in enumerate(pairs):
        try:
            if not caption.strip():
                raise ValueError(f"{path.name} has an empty caption")
            samples.append({"__key__": f"{number:08d}", "jpg": jpeg(path, size), "txt": caption.strip().encode()})
        except Exception as error:  # one broken file must not end the run
            skipped(error)
    skipped.report(say)
    every = max(2, round(1 / val_share))
    held_out = samples[::every] if len(samples) >= every else samples[:1]
    keys = {s["__key__"] for s in held_out}
    kept = [s for s in samples if s["__key__"] not in keys] or samples
    say(f"train: {write_shards(kept, Path(out) / 'train', 1000)} pictures")
    say(f"test: {write_shards(held_out, Path(out) / 'test', 1000)} pictures")


def captioned_files(folder):
    """The (path, caption) pairs of a folder, sorted by path; several captions of one picture are joined by newlines."""
    if (folder / "metadata.jsonl").is_file():
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [parse_json(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    elif (folder / "metadata.csv").is_file():
        with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return [(p, p.with_suffix(".txt").read_text(encoding="utf-8")) for p in images if p.with_suffix(".txt").is_file()]
    captions = {}
    for row in rows:
        text = row.get("text") or row.get("caption") or ""
        if not row.get("file_name"):
            raise UserError(f"the metadata of {folder} needs the columns file_name and text")
        captions.setdefault(folder / row["file_name"], []).append(" ".join(text.split()))
    return [(path, "\n".join(texts)) for path, texts in sorted(captions.items())]


def parse_json(line, number):
    try:
        return json.loads(line)
    except ValueError:
        raise UserError(f"metadata.jsonl, line {number}: not JSON") from None


def jpeg(path, size):
    """A picture file as JPEG bytes (RGB); shrunk so that its shorter side is `size` where that is smaller."""
    image = Image.open(path)
    image = image.convert("RGB")
    if size and min(image.size) > size:
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
        with new_file(path) as temporary:
            urllib.request.urlretrieve(url, temporary)
    except OSError as error:
        raise UserError(f"cannot download {url} ({error}): fetch it yourself and give it as --source FILE.zip") from None
    return path


def read_lines(path):
    """The lines of a file, without remarks after ' #' and without empty ones."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"no file {path}") from None
    return [t for t in (line.split("  #")[0].strip() for line in lines) if t]
