"""Where the figures of an evaluation may be written."""

from pathlib import Path

from ..cli import check_writable
from ..errors import UserError


def output_file(path, option):
    """A path that a script's option names, as one that can be written to; None where it names none.

    Looked at before the work: hours of it must not end at a path that is a folder.

    Raises:
        UserError: it is a folder, or lies in none that can be made or written to.
    """
    if path is None:
        return None
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file in it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{option} {path}: {above} is a file, and holds no other: choose another path")
    check_writable(path, option)
    return path
