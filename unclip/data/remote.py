"""Shards that lie elsewhere: at a URL, or in what a command writes."""

import http.client
import re
import shlex
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ..errors import UserError, first_line

SCHEMES = ("http://", "https://", "s3://", "pipe:")
TIMEOUT = 20  # seconds for a connection, and for more of a shard to come
WAITS = (1, 2, 4, 8)  # seconds before another try; then it is given up
BUSY = (408, 429)  # of the answers that are the asker's fault, those that may be others later


def is_remote(folder):
    """Whether a data folder, or a shard, is a URL or a command."""
    return str(folder).startswith(SCHEMES)


def remote_shards(urls):
    """The shards that a URL, or a command, in brace notation stands for, as WebDataset writes it: a list of str.

    `https://host/{00000..00099}.tar`, `s3://bucket/{000..099}.tar` (read by `aws s3 cp`), `pipe:COMMAND {0..9}.tar`; several
    are joined by `::`.

    Raises:
        UserError: braces that do not fit together.
    """
    from webdataset.shardlists import expand_urls

    try:
        return expand_urls(urls)
    except Exception as error:
        raise UserError(f"cannot read data.folder {urls} ({first_line(error)}): write it like HOST/{{00..99}}.tar") from None


def open_shard(shard):
    """A shard, a path or one of `remote_shards`, as a binary stream to be read once from its start. Raises OSError."""
    shard = str(shard)
    if not is_remote(shard):
        return open(shard, "rb")
    if shard.startswith("http"):
        return HttpStream(shard)
    from webdataset.gopen import gopen_pipe

    return gopen_pipe(f"pipe:aws s3 cp {shlex.quote(shard)} -" if shard.startswith("s3:") else shard)


def shard_name(shard):
    """The name of a shard's file, without what else a URL or a command says, such as keys."""
    found = re.findall(r"[^/\s'\"=]+\.tar", str(shard)) if is_remote(shard) else ()
    return found[-1] if found else Path(str(shard).split("?")[0] if is_remote(shard) else shard).name


class HttpStream:
    """The file at a URL, read once from its start. Where the transfer stalls, breaks off or finds the server in trouble, it is
    tried again, with longer and longer waits, from where it was."""

    def __init__(self, url):
        self.url, self.place, self.size, self.response = url, 0, None, None

    def read(self, count):
        """Up to `count` bytes; none at the end. Raises OSError where the file is not to be had."""
        for wait in (*WAITS, None):
            try:
                return self._read(count)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                lost = isinstance(error, HTTPError) and error.code < 500 and error.code not in BUSY
                if lost or wait is None or isinstance(error, NoRanges):
                    raise OSError(f"{first_line(error)}, at byte {self.place}") from None
                time.sleep(wait)

    def close(self):
        if self.response is not None:
            self.response.close()
            self.response = None

    def _read(self, count):
        if self.response is None:
            self._open()
        piece = self.response.read(count)
        if not piece and self.size is not None and self.place < self.size:
            raise ConnectionError(f"the transfer broke off before its {self.size} bytes")
        self.place += len(piece)
        return piece

    def _open(self):
        begun = {"Range": f"bytes={self.place}-"} if self.place else {}
        self.response = urlopen(Request(self.url, headers={"User-Agent": "unclip", **begun}), timeout=TIMEOUT)
        if begun and self.response.status != http.HTTPStatus.PARTIAL_CONTENT:
            raise NoRanges("the transfer broke off, and the server cannot go on in the middle")
        if not begun and "Content-Length" in self.response.headers:
            self.size = int(self.response.headers["Content-Length"])


class NoRanges(OSError):
    """A server that gives whole files only."""
