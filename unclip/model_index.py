"""A model on disk: `model_index.json`, `vocabulary.txt`, and a subfolder a part (`clip`, `prior`, `decoder`).

Training fills it part by part; each training adds its own and leaves the others alone.
"""

import json
import shutil
from pathlib import Path

from .errors import UserError
from .files import new_file, new_folder

INDEX, VOCABULARY = "model_index.json", "vocabulary.txt"
PARTS = {"prior": "scripts/train_prior.py", "decoder": "scripts/train_decoder.py"}
DEFAULTS = {
    "num_inference_steps": 50,
    "guidance_scale": 2.0,
    "prior_num_inference_steps": 25,
    "prior_guidance_scale": 1.0,
    "sampler": "ddim",
}


def read_index(folder):
    """The index of a model folder, its defaults filled in.

    Raises:
        UserError: no index, one that is cut off, or a part that is missing; says what to do.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        clip, defaults = dict(index["clip"]), {**DEFAULTS, **index.get("defaults", {})}
    except OSError:
        raise UserError(f"{folder} is no model: it lacks {INDEX}; train one, or use --model pocket") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / INDEX} is damaged: copy or train the model again") from None
    for part, script in PARTS.items():
        if not (folder / part).is_dir():
            raise UserError(f"the model {folder} has no {part} yet: run {script}")
    return {"clip": clip, "defaults": defaults}


def read_vocabulary(folder):
    """The words that the model's training captions held; an empty set where that is not recorded."""
    path = Path(folder) / VOCABULARY
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()


def begin_model(folder, clip_name, pretrained, unit_variance):
    """Make or keep the index of a model that is being trained. A CLIP folder is copied in, so that the model is whole.

    Raises:
        UserError: the folder holds a model with another CLIP.
    """
    folder = Path(folder)
    source = Path(str(clip_name).removeprefix("local-dir:"))
    clip = {"name": "clip" if source.is_dir() else clip_name, "pretrained": pretrained, "unit_variance": unit_variance}
    index = {"clip": clip, "defaults": {}}
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["clip"] != clip:
            raise UserError(f"{folder} holds a model with the CLIP {index['clip']}: choose another folder for out=")
    if source.is_dir() and not (folder / "clip").exists():
        with new_folder(folder / "clip") as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    with new_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_vocabulary(folder, words):
    with new_file(Path(folder) / VOCABULARY) as temporary:
        temporary.write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")
