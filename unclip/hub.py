"""Where models are: what ships ("pocket"), a local folder, or a Hugging Face hub id."""

import re
from pathlib import Path

from .cli import disk_is_full
from .errors import UserError, first_line
from .model_index import INDEX, read_clip_entry

POCKET = Path(__file__).resolve().parents[1] / "data" / "pocket"
PHOTOS = POCKET.parent / "photos"


def model_folder(name):
    """The folder of a model: "pocket", an existing folder, or a hub id ORG/NAME, which is downloaded once.

    Raises:
        UserError: there is no such model, or no way to it.
    """
    folder = POCKET if str(name) == "pocket" else Path(name)
    if str(name) == "pocket" and not (folder / INDEX).is_file():
        raise UserError(f"no pocket model in {POCKET}: install from a clone of the repository (pip install -e .)")
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    if folder.exists():
        raise UserError(f"{name} is {'an empty folder' if folder.is_dir() else 'a file'}, not a model folder")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)):
        raise UserError(f"no model folder {name}: give pocket, a folder, or a hub id ORG/NAME")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:  # the many ways of a network to fail
        if disk_is_full(error):
            raise
        raise UserError(
            f"no folder {name}, and it cannot be fetched from the Hugging Face hub: {first_line(error)}"
        ) from error


def load_clip(folder, device="cpu"):
    """The FrozenCLIP of a model folder: its own `clip` subfolder, or the OpenCLIP model that its index names.

    Raises:
        UserError: no index, one that is cut off, no such CLIP, or another than the one that the model was trained with.
    """
    from .clip import FrozenCLIP

    folder, entry = Path(folder), read_clip_entry(folder)
    name = entry["name"]
    if name == "clip" and not (folder / name).is_dir():
        raise UserError(f"the model {folder} has no clip: copy it again, or train one with scripts/train_clip.py")
    if name != "clip" and Path(name).is_dir():
        raise UserError(f"{folder} names the CLIP {name}, but here that is a folder, not the model's: run from another folder")
    source = folder / name if name == "clip" else name
    clip = FrozenCLIP(source, entry["pretrained"], unit_variance=entry["unit_variance"], device=device)
    if entry["fingerprint"] not in (None, clip.fingerprint()):
        what = " ".join(filter(None, (name, entry["pretrained"])))
        raise UserError(
            f"{folder} was trained with the CLIP {what} of checksum {entry['fingerprint']}, but {source} here has "
            f"{clip.fingerprint()}: copy the model again, or train its parts with this CLIP"
        )
    return clip


def any_clip(name, pretrained=None, device="cpu"):
    """A FrozenCLIP from all that can hold one: "pocket", a model folder, an OpenCLIP folder, a hub id of either, or
    an OpenCLIP architecture with the tag of its weights.

    Raises:
        UserError: there is none.
    """
    from .clip import FrozenCLIP

    if pretrained or is_openclips(str(name)):
        return FrozenCLIP(name, pretrained, device=device)
    folder = model_folder(name)
    return load_clip(folder, device) if (folder / INDEX).is_file() else FrozenCLIP(folder, device=device)


def is_openclips(name):
    """Is a name one that OpenCLIP knows, and not that of a model here? OpenCLIP, slow to import, is asked last."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return True
    if name == "pocket" or Path(name).is_dir():
        return False
    from .openclip.library import import_open_clip

    return name.replace("/", "-") in import_open_clip().list_models()
