"""The decoder of a model that is measured, on made-up embeddings."""

import json

from ..errors import UserError
from ..hub import model_folder
from ..part import CONFIG


def decoder_folder(model):
    """The folder of a model's decoder that reads embeddings alone, as a string.

    Raises:
        UserError: no such model, no decoder in it, or one that reads captions.
    """
    folder = model_folder(model) / "decoder"
    if not (folder / CONFIG).is_file():
        raise UserError(f"the model {model} has no decoder: choose one that has, such as pocket")
    if json.loads((folder / CONFIG).read_text()).get("text_dim"):
        raise UserError(f"the decoder of {model} reads captions, which are not made up here: choose a model whose does not")
    return str(folder)
