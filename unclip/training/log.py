"""The figures of a run: lines of `log.jsonl`, and TensorBoard's files where that is installed."""

import json
import os
from pathlib import Path

from ..files import new_file

FILE = "log.jsonl"


def cut_back(run, step):
    """Take from a run's log what comes after the step of the checkpoint from which it goes on: it will be written again."""
    file = Path(run) / FILE
    if not file.is_file():
        return
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        with new_file(file) as temporary:
            temporary.write_text("".join(kept))


def write_line(run, figures):
    """Add a line to a run's log; it is on the disk when this is over, so that no checkpoint is ahead of its log."""
    with open(Path(run) / FILE, "a") as log:
        log.write(json.dumps(figures) + "\n")
        log.flush()
        os.fsync(log.fileno())
