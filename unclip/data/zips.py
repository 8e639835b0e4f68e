"""Zips, which may come from anywhere: read in memory, never unpacked, so that a member's name is no path."""

import zipfile

from ..errors import first_line

MAX_MEMBER = 100_000_000  # bytes of a member, unpacked


def open_zip(path):
    """A ZipFile. Raises ValueError where there is none, or no whole one."""
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a broken zip can fail in any way
        raise ValueError(first_line(error)) from None


def member(archive, name):
    """The bytes of a member, MAX_MEMBER at most. Raises ValueError where it is missing, damaged, locked, or larger."""
    try:
        entry = archive.getinfo(name)
        if entry.file_size <= MAX_MEMBER:  # no more is unpacked than is said here
            return archive.read(entry)
    except Exception as error:
        raise ValueError(f"{name}: {first_line(error)}") from None
    raise ValueError(f"{name}: {entry.file_size:,} bytes, {MAX_MEMBER:,} at most are unpacked")
