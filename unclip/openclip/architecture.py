"""What a CLIP is made of, without its weights."""

from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, first_line, nearest
from ..files import read_json
from .folder import FOLDER_CONFIG
from .library import import_open_clip

WIDTH, LENGTH = 512, 77  # of OpenCLIP's text towers, where a config does not say


class Sizes(NamedTuple):
    """embed_dim: D of its embeddings; text_width, text_length: of the states of a caption's tokens."""

    embed_dim: int
    text_width: int
    text_length: int


def architecture_of(name):
    """OpenCLIP's model config (embed_dim, vision_cfg, text_cfg, ...) of a CLIP called `name`: a folder, or an architecture.

    Raises:
        UserError: no such CLIP, a damaged config, or one that only the hub describes.
    """
    path = Path(str(name).removeprefix("local-dir:"))
    if path.is_dir():
        try:
            return dict(read_json(path / FOLDER_CONFIG)["model_cfg"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"the CLIP folder {path} has no {FOLDER_CONFIG} that can be read ({first_line(error)})") from None
    open_clip, architecture = import_open_clip(), str(name).replace("/", "-")
    if architecture not in open_clip.list_models():
        close = nearest(name, open_clip.list_models())
        raise UserError(f"no CLIP {name!r}{close}: its sizes are read off a folder, or an architecture that OpenCLIP has")
    return open_clip.get_model_config(architecture)


def sizes_of(architecture, name):
    """The `Sizes` in a model config. Raises UserError for a text tower whose sizes are Hugging Face's to know."""
    text = architecture["text_cfg"]
    if "hf_model_name" in text:
        raise UserError(f"CLIP {name} has a text tower of Hugging Face's, which its config does not describe: name another")
    return Sizes(architecture["embed_dim"], text.get("width", WIDTH), text.get("context_length", LENGTH))
