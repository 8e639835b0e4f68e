"""What `scripts/eval_zero_shot.py` does: a CLIP and labelled pictures in, figures out."""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from ..cli import device_of
from ..data.captions import ClassCaptions
from ..data.images import decode, read_image, to_float
from ..data.shards import find_shards, image_bytes, read_samples
from ..data.skipped import Skipped
from ..errors import UserError
from ..files import new_file, read_lines
from ..hub import any_clip
from ..zero_shot import TEMPLATES, ZeroShotClassifier, fill
from .confusion import confusion_image
from .outputs import output_file

SHOWN = 5  # best and worst classes that are printed, names of a single picture


def evaluate(
    model, pretrained, data, split, classnames, templates, json_file, confusion_file, device, batch_size, max_images
):
    """Classify the pictures of a labelled data folder; prints a table. Arguments are those of the script.

    Raises:
        UserError: bad input; says what to do.
    """
    if batch_size < 1 or (max_images is not None and max_images < 1):
        raise UserError("--batch-size and --max-images must be at least 1")
    json_file, confusion_file = output_file(json_file, "--json"), output_file(confusion_file, "--confusion")
    device, folder = device_of(device), Path(data)
    find_shards(folder, split)  # before a model is loaded for nothing
    names = class_names(folder, classnames)
    templates = templates_of(folder, templates)
    no_article = ClassCaptions.of_folder(folder).no_article if (folder / "captions.json").is_file() else ()
    clip = any_clip(model, pretrained, device)
    classifier = ZeroShotClassifier(clip, names, templates, no_article)
    skipped = Skipped()
    batches = labelled_batches(folder, split, clip.image_size, batch_size, max_images, skipped, clip.squash)
    scores = classifier.evaluate(tqdm(batches, desc="classifying", unit="batch", leave=False))
    skipped.report()
    rows = [
        ("model", f"{model} {pretrained or ''}".strip()),
        ("data", f"{folder} ({split}), {len(names)} classes, {len(templates)} templates"),
        ("images", scores.num_images),
        ("top-1", per_cent(scores.top1)),
        ("top-5", per_cent(scores.top5)),
        ("mean per class", per_cent(scores.mean_per_class)),
    ]
    ranked = sorted(scores.recalls.items(), key=lambda item: -item[1])
    shown = min(SHOWN, len(ranked) // 2)
    for title, part in (("best", ranked[:shown]), ("worst", ranked[::-1][:shown])):
        if part:
            rows.append((title, ", ".join(f"{names[k]} {per_cent(recall)}" for k, recall in part)))
    print("\n".join(f"{title:16}{value}" for title, value in rows))
    if json_file:
        settings = {"model": str(model), "pretrained": pretrained, "data": str(folder), "split": split}
        report = {**settings, "templates": templates, "skipped": skipped.count, **scores.summary()}
        with new_file(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(json_file)
    if confusion_file:
        with new_file(confusion_file) as temporary:
            confusion_image(scores.confusion, names).save(temporary, "PNG")
        print(confusion_file)


def classify(model, pretrained, images, classes, templates, device):
    """Print the likeliest classes of single pictures. Arguments are those of the script.

    Raises:
        UserError: bad input; says what to do.
    """
    if not classes:
        raise UserError("--image needs the classes to choose from: --classes dog cat ...")
    templates = read_lines(templates) if templates else ["a photo of {a}."]
    pictures = [read_image(path) for path in images]
    for template in templates:
        fill(template, "")
    classifier = ZeroShotClassifier(any_clip(model, pretrained, device_of(device)), classes, templates)
    for path, picture in zip(images, pictures):  # one by one: a thousand names need not fit in memory at once
        best = classifier.probabilities([picture])[0].topk(min(SHOWN, len(classes)))
        shown = ", ".join(f"{classes[k]} {per_cent(p)}" for p, k in zip(best.values.tolist(), best.indices.tolist()))
        print(f"{path}: {shown}")


def per_cent(share):
    return f"{100 * share:.1f}%"


def class_names(folder, file=None):
    """The class names of a labelled data folder, or those of a file, which must be as many where the folder has its own.

    Raises:
        UserError: neither gives any, or their numbers differ.
    """
    own = folder / "classnames.txt"
    names = read_lines(own) if own.is_file() else None
    given = read_lines(file) if file else names
    if given is None:
        raise UserError(
            f"{folder} is no labelled data: it lacks classnames.txt, a name a line in the labels' order; write it, or "
            "name such a file with --classnames"
        )
    if names is not None and len(given) != len(names):
        raise UserError(f"{file} has {len(given)} class names, but the data has {len(names)} classes")
    return given


def templates_of(folder, file=None):
    """The prompt templates of a file, of the data folder, or else of this project; each has a place for the name."""
    own = folder / "zeroshot_classification_templates.txt"
    templates = read_lines(file or own) if file or own.is_file() else list(TEMPLATES)
    if not templates:
        raise UserError(f"no templates in {file or own}: write one a line, such as: a photo of {{a}}.")
    for template in templates:
        fill(template, "")
    return templates


def labelled_batches(folder, split, size, batch_size, max_images, skipped, squash=False):
    """Yield (images float (B, 3, size, size), labels (B,)) of a labelled data folder, read as they come.

    Corrupt samples are skipped; `skipped` counts them. squash: see `decode`.
    """
    images, labels, seen = [], [], 0
    for sample in read_samples(find_shards(folder, split), skipped):
        if seen == max_images:
            break
        try:
            image, label = decode(image_bytes(sample), size, squash), int(sample["cls"])
        except Exception as error:  # a broken sample must not end the run
            skipped(error)
            continue
        seen += 1
        images.append(image)
        labels.append(label)
        if len(images) == batch_size:
            yield to_float(torch.stack(images)), torch.tensor(labels)
            images, labels = [], []
    if images:
        yield to_float(torch.stack(images)), torch.tensor(labels)

