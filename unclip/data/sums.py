"""Checksums of what is embedded, by which it is known again when it is read."""

import zlib


def sum_of(content):
    """The checksum of a caption, or of the bytes of a picture's file, of 32 bits, with a sign."""
    return zlib.crc32(content.encode() if isinstance(content, str) else content) - 2**31
