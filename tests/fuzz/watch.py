"""What a reader does to the machine while it reads."""

import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

SECONDS = 60  # after so long a reader hangs: none of the inputs takes a second
MEMORY = 2 << 30  # bytes that reading may add: the inputs are some kilobytes
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "webbrowser.open")
_watching = []  # the folder that may be written to, and what was done elsewhere; an audit hook cannot be taken off again


def _hook(event, args):
    if not _watching:
        return
    folder, seen = _watching[-1]
    if event in NEVER:
        seen.append(f"{event} {args!r:.200}")
    elif event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES):
        paths = [os.fsdecode(p) for p in args if isinstance(p, (str, bytes, os.PathLike))][: 1 + (event == "os.rename")]
        seen += [f"{event} {p}" for p in paths if not Path(p).resolve().is_relative_to(folder) and p != os.devnull]


sys.addaudithook(_hook)


def _late(signum, frame):
    raise AssertionError(f"not done after {SECONDS} seconds")


@contextlib.contextmanager
def watched(folder):
    """While it lasts, memory is bounded. AssertionError for what `conftest.watch` says, or if it takes too long."""
    used = None
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits, seen = resource.getrlimit(resource.RLIMIT_AS), []
    before = signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    _watching.append((Path(folder).resolve(), seen))
    try:
        yield
    finally:
        _watching.pop()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not seen, seen
