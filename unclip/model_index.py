"""A model on disk: `model_index.json`, `vocabulary.txt`, `classes.json` where its pictures were labelled, and a subfolder a
part (`clip`, `prior`, `decoder`, and, where it enlarges its pictures, `upsampler-1`, `upsampler-2`, ...).

Training fills it part by part; each training adds its own and leaves the others alone.
"""

import filecmp
import json
import re
import shutil
from pathlib import Path

from .data.captions import ClassCaptions
from .errors import UserError
from .files import new_file, new_folder, read_json, read_text

INDEX, VOCABULARY, CLASSES = "model_index.json", "vocabulary.txt", "classes.json"
# "clip": the subfolder; or OpenCLIP's own names, and ids of the hub. No path: a model comes whole, and may come from anyone.
CLIP_NAME = re.compile(r"(hf-hub:)?[\w-][\w.+-]*(/[\w-][\w.+-]*)?")
PARTS = {"prior": "scripts/train_prior.py", "decoder": "scripts/train_decoder.py"}


def read_index(folder):
    """The index of a model folder: {"clip": as `read_clip_entry` returns it, "defaults": fields of `Settings`}.

    Raises:
        UserError: no index, one that is cut off, or a part that is missing; says what to do.
    """
    folder = Path(folder)
    index = _read(folder)
    for part, script in PARTS.items():
        if not (folder / part).is_dir():
            raise UserError(f"the model {folder} has no {part} yet: run {script}")
    return index


def upsampler_folders(folder):
    """The folders of a model's upsamplers, in order; none for a model that has none.

    Raises:
        UserError: one is missing before another.
    """
    folders = []
    while (folder / f"upsampler-{len(folders) + 1}").is_dir():
        folders.append(folder / f"upsampler-{len(folders) + 1}")
    named = [p for p in folder.iterdir() if re.fullmatch(r"upsampler-\d+", p.name)]
    beyond = sorted(p.name for p in named if p not in folders)
    if beyond:
        raise UserError(f"the model {folder} has {beyond[0]}, but no upsampler-{len(folders) + 1}: train or copy that one")
    return folders


def side_before(folder, stage):
    """Side of the pictures that a model's part before `upsampler-STAGE` draws; None where that part is not there yet."""
    part = "decoder" if stage == 1 else f"upsampler-{stage - 1}"
    try:
        return read_json(Path(folder) / part / "config.json")["image_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_clip_entry(folder):
    """Which CLIP a model has, also one that lacks parts: {"name", "pretrained" (None for folders), "unit_variance",
    "fingerprint" (of its weights; None where it was not recorded)}.

    Raises:
        UserError: no index, or one that is cut off.
    """
    return _read(Path(folder))["clip"]


def _read(folder):
    """The index, of a model that may still lack parts."""
    try:
        index = read_json(folder / INDEX)
        clip = {"pretrained": None, "fingerprint": None, **index["clip"]}
        if not isinstance(clip["name"], str) or not isinstance(clip["unit_variance"], bool):
            raise TypeError("the CLIP's name is a string, its convention a bool")
        if not all(clip[key] is None or isinstance(clip[key], str) for key in ("pretrained", "fingerprint")):
            raise TypeError("the CLIP's tag and its fingerprint are strings, or none")
        defaults = dict(index.get("defaults", {}))
    except OSError:
        raise UserError(f"{folder} is no model: it lacks {INDEX}; train one, or use --model pocket") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / INDEX} is damaged: copy or train the model again") from None
    if not CLIP_NAME.fullmatch(clip["name"]):
        path = f"{folder / INDEX} names the CLIP {clip['name']!r}, a path"
        raise UserError(f"{path}: copy that CLIP to {folder / 'clip'}, and name it clip")
    if (clip["pretrained"] or "").endswith(".safetensors") and clip["fingerprint"] is None:
        raise UserError(f"{folder / INDEX} names the file {clip['pretrained']!r} without its checksum: train the model again")
    return {"clip": clip, "defaults": defaults}


def read_vocabulary(folder):
    """The words that the model's training captions held; an empty set where that is not recorded."""
    path = Path(folder) / VOCABULARY
    try:
        return set(read_text(path).split()) if path.is_file() else set()
    except ValueError:
        raise UserError(f"{path} is damaged: copy it again, or remove it") from None


def read_classes(folder):
    """The ClassCaptions that the model's prior was trained on; None where its pictures had captions of their own."""
    path = Path(folder) / CLASSES
    return ClassCaptions.read(path, "copy it again, or remove it") if path.is_file() else None


def begin_model(folder, clip_name, pretrained, unit_variance, fingerprint=None):
    """Make or keep the index of a model that is being trained. A CLIP folder is copied in, so that the model is whole.

    fingerprint: of the CLIP's weights, if known: `FrozenCLIP.fingerprint`.

    Raises:
        UserError: the folder holds a model with another CLIP, whose prior and decoder would not fit this one.
    """
    folder = Path(folder)
    source = Path(str(clip_name).removeprefix("local-dir:"))
    name = "clip" if source.is_dir() else clip_name
    clip = {"name": name, "pretrained": pretrained, "unit_variance": unit_variance, "fingerprint": fingerprint}
    index = {"clip": clip, "defaults": {}}
    if (folder / INDEX).is_file():
        index = _read(folder)
        known = {**index["clip"], "fingerprint": index["clip"]["fingerprint"] or fingerprint}
        if known != {**clip, "fingerprint": fingerprint or known["fingerprint"]}:
            raise UserError(f"{folder} holds a model with the CLIP {index['clip']}, not {clip}: choose another folder for out=")
        index["clip"] = known
    if source.is_dir() and not (folder / "clip").exists():
        with new_folder(folder / "clip") as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    elif source.is_dir() and not same_files(source, folder / "clip"):
        raise UserError(f"{folder / 'clip'} is not the CLIP {source}: choose another folder for out=, or remove {folder}")
    write_index(folder, **index)


def begin_copy(source, folder, part, defaults):
    """Make the folder of a model that is another's but for one part: its CLIP, other parts, vocabulary and index.

    source: the other's folder; part: the name of what is left out, for training to fill in; defaults: fields of `Settings`
    that differ from the other's.

    Raises:
        UserError: the folder holds other parts.
    """
    source, folder = Path(source), Path(folder)
    index = read_index(source)
    clip = index["clip"]
    held = source / clip["name"]
    name = held if held.is_dir() else clip["name"]
    begin_model(folder, name, clip["pretrained"], clip["unit_variance"], clip["fingerprint"])
    for each in [source / "prior", source / "decoder", *upsampler_folders(source)]:
        copy = folder / each.name
        if each.name == part:
            continue
        if not copy.exists():
            with new_folder(copy) as temporary:
                shutil.copytree(each, temporary, dirs_exist_ok=True)
        elif not same_files(each, copy):
            raise UserError(f"{copy} is not that of {source}: choose another folder for out=, or remove {folder}")
    for name in (VOCABULARY, CLASSES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    write_index(folder, read_clip_entry(folder), {**index["defaults"], **defaults})


def write_index(folder, clip, defaults):
    """Write a model's index: see `read_index`."""
    with new_file(Path(folder) / INDEX) as temporary:
        temporary.write_text(json.dumps({"clip": clip, "defaults": defaults}, indent=2) + "\n", encoding="utf-8")


def write_vocabulary(folder, words):
    with new_file(Path(folder) / VOCABULARY) as temporary:
        temporary.write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")


def write_classes(folder, class_captions):
    """Write the classes of a prior's training; None: it had none, and those of another before it go."""
    if class_captions is None:
        return (Path(folder) / CLASSES).unlink(missing_ok=True)
    with new_file(Path(folder) / CLASSES) as temporary:
        class_captions.save(temporary)


def same_files(a, b):
    """Do two folders hold the same files?"""
    names = sorted(p.name for p in a.iterdir())
    return names == sorted(p.name for p in b.iterdir()) and not any(filecmp.cmpfiles(a, b, names, shallow=False)[1:])
