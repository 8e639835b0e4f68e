"""A local folder, or those files of a Hugging Face repository that an import needs."""

import re
from pathlib import Path

from ..cli import disk_is_full
from ..errors import UserError, first_line
from .diffusers_layout import WEIGHT_FILES

SECONDS = 20  # to wait for the hub


def fetch(source, parts):
    """The folder of `source`: itself, or what a hub id ORG/NAME has of `parts` (sub-folders; "" for its top).

    Of each part its JSON files and its weights in one form are fetched, the first of WEIGHT_FILES that is there; what was
    fetched before needs no network.

    Raises:
        UserError: there is no such folder or repository, or no way to it.
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise UserError(f"--source {source} is a file: name the folder that holds it")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
        raise UserError(f"--source {source}: no such folder, and no hub id ORG/NAME")
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = [file.rfilename for file in HfApi().model_info(source, timeout=SECONDS).siblings]
        return Path(snapshot_download(source, allow_patterns=[f for p in parts for f in files_of(p, files)]))
    except Exception as error:  # the many ways of a network to fail
        if disk_is_full(error):
            raise
        try:
            return Path(snapshot_download(source, local_files_only=True))
        except Exception:  # nothing was fetched before
            raise UserError(
                f"no folder {source}, and it cannot be fetched from the Hugging Face hub: {first_line(error)}; try again, or "
                "name a folder"
            ) from error


def files_of(part, files):
    """Of a repository's files those of one part: its JSON files and its weights in one form."""
    at = f"{part}/" if part else ""
    here = {f.removeprefix(at): f for f in files if f.startswith(at) and "/" not in f.removeprefix(at)}
    chosen = next((name for name in WEIGHT_FILES if name in here), None)
    shards = [n for n in here if chosen and chosen.endswith(".index.json") and re.search(r"-\d+-of-\d+\.safetensors$", n)]
    return [here[n] for n in [*(n for n in here if n.endswith(".json")), *([chosen] if chosen else []), *shards]]
