"""What a CLIP is called: a folder, a hub id, or an architecture with the tag of its weights."""

from pathlib import Path

from ..errors import UserError, nearest
from .folder import FOLDER_CONFIG, FOLDER_WEIGHTS
from .library import import_open_clip, refuse_pickle


def model_name(name, pretrained=None):
    """The name of a CLIP as `open_clip.create_model` takes it; a local folder becomes 'local-dir:...'.

    Raises:
        UserError: no such architecture, tag or folder, a folder that is unfinished or holds pickles only, or weights
            that are neither in the name nor told by a tag.
    """
    name = str(name)
    path = Path(name.removeprefix("local-dir:"))
    if path.is_dir():
        if not (path / FOLDER_CONFIG).is_file():
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks {FOLDER_CONFIG}")
        if not any((path / weights).is_file() for weights in FOLDER_WEIGHTS):
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks {' or '.join(FOLDER_WEIGHTS)}")
        name = f"local-dir:{path}"
    elif name.startswith("local-dir:"):
        raise UserError(f"no CLIP folder {path}: train one with scripts/train_clip.py")
    elif not name.startswith("hf-hub:"):
        return architecture_name(name, pretrained)
    if pretrained:
        raise UserError(f"CLIP {name} brings its own weights: leave the tag {pretrained!r} out")
    return name


def architecture_name(name, pretrained):
    """The name of an architecture that OpenCLIP has, with weights; see `model_name`."""
    open_clip, architecture = import_open_clip(), name.replace("/", "-")
    if architecture not in open_clip.list_models():
        raise UserError(
            f"no CLIP {name!r}{nearest(name, open_clip.list_models())}: give a folder, hf-hub:ORG/NAME, or a name that "
            "open_clip.list_models() has"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    file = pretrained and Path(pretrained).suffix == ".safetensors" and Path(pretrained).is_file()
    if not file and not (pretrained and open_clip.get_pretrained_cfg(architecture, pretrained)):
        wrong = f"no weights {pretrained!r}{nearest(pretrained, tags)}" if pretrained else "no weights named"
        choice = f"its tags are {', '.join(tags)}" if tags else "it has no tags: give a .safetensors file"
        raise UserError(f"CLIP {architecture}: {wrong}; {choice}")
    tag = {} if file else open_clip.get_pretrained_cfg(architecture, pretrained)
    if tag.get("url") and not tag.get("hf_hub"):  # before a pickle is downloaded for nothing
        refuse_pickle(tag["url"], f"CLIP {architecture} {pretrained}")
    return architecture
