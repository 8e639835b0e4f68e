"""What a run writes down line by line: its figures in `log.jsonl`, and its steps of trouble (see trouble.py)."""

import json
import os
from pathlib import Path

from ..files import new_file

FILE = "log.jsonl"


def cut_back(file, last):
    """Take from a file of lines what comes after the last step that a checkpoint has: it will be written again."""
    file = Path(file)
    if not file.is_file():
        return
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last]
    if len(kept) < len(lines):
        with new_file(file) as temporary:
            temporary.write_text("".join(kept))


def write_line(file, line):
    """Add a dict as a line to a file; it is on the disk when this is over, so that no checkpoint is ahead of its log."""
    with open(file, "a") as log:
        log.write(json.dumps(line) + "\n")
        log.flush()
        os.fsync(log.fileno())
