"""Files: writing that leaves either the whole new one or what was there before; reading lists and JSON."""

import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

MAX_TEXT = 16_000_000  # bytes of a file that is read as text: lists of words and captions, settings


@contextmanager
def new_file(path):
    """A path to write to; moved onto `path` when the block ends well, removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)  # after writing: some writers put a file of their own in the place of this one
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def remove_unfinished(paths):
    """Remove what `new_file` has left beside these files where its process was killed. Nobody else may be writing them."""
    begun = {}
    for path in map(Path, paths):
        begun.setdefault(path.parent, []).append(f".{path.name}.")
    for folder, names in begun.items():
        for hidden in folder.glob(".*"):
            if hidden.name.startswith(tuple(names)):
                hidden.unlink(missing_ok=True)


@contextmanager
def new_folder(path):
    """An empty folder to fill; put in the place of `path` when the block ends well, removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = path.with_name(f".{path.name}.old")
    try:
        os.chmod(temporary, 0o755)
        yield temporary
        for file in temporary.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(folder):
    """Wait until the files of a folder, and their names, are on the disk: what is renamed afterwards is whole in any case."""
    folder = Path(folder)
    for path in [*(p for p in folder.iterdir() if p.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def empty_folder(path):
    """A path to make a folder at. Raises UserError where something is there already."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"--out {path} is {'not empty' if path.is_dir() else 'a file'}: name a new folder")
    return path


def read_lines(path):
    """The lines of a file, without empty ones and without remarks: a '#' at the start or after a space, and the rest."""
    try:
        lines = read_text(path).splitlines()
    except OSError:
        raise UserError(f"no file {path}: check its name") from None
    except ValueError:
        raise UserError(f"{path} is not a text file") from None
    return [t for t in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if t]


def read_text(path, most=MAX_TEXT):
    """A UTF-8 text file, without the mark that some editors begin it with.

    Raises:
        OSError: there is none. ValueError: it is no UTF-8, or has more than `most` bytes.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode("utf-8-sig")


def read_json(path):
    """What a JSON file holds.

    Raises:
        OSError: there is no such file. ValueError: no JSON, more than MAX_TEXT bytes of it, or too deeply nested.
    """
    return parse_json(read_text(path))


def parse_json(text):
    """What a JSON text, or its bytes, hold. Raises ValueError where they are none, or too deeply nested."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
