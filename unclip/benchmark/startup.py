"""How long a picture takes from the shell: the whole command, beside what its largest libraries alone take to import."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from ..errors import UserError
from .asked import at_least_one
from .machine import machine
from .report import keep, spread

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "generate.py"
FLOOR = "import torch, open_clip"
IMPORTS = "import torch; from unclip.openclip.library import import_open_clip; import_open_clip()"  # also beside PyTorch's CPU build
PROMPT = "a photo of a dog"


def startup(rounds, out):
    """What `scripts/benchmark.py startup` does: measure, print a table, and write it to a folder; returns the paths.

    Raises:
        UserError: no rounds, or a command that fails.
    """
    at_least_one(rounds=rounds)
    measured = measure(rounds)
    return keep(out, "startup", machine(), {"rounds": rounds}, measured, table(measured))


def measure(rounds):
    """{FLOOR: [seconds, ...], "1 picture": ..., "16 pictures": ...}: from start to end of a process.

    They take turns, so that what disturbs one disturbs all; a first round, which brings the files into memory, is not kept.

    Raises:
        UserError: one of them fails; says its last words.
    """
    with tempfile.TemporaryDirectory() as out:
        draw = [sys.executable, str(SCRIPT), PROMPT, "--device", "cpu", "--out", out, "--num-images"]
        commands = {FLOOR: [sys.executable, "-c", IMPORTS], "1 picture": [*draw, "1"], "16 pictures": [*draw, "16"]}
        bar = tqdm(range(rounds + 1), desc="starting", leave=False)
        turns = [{name: seconds(command) for name, command in commands.items()} for _ in bar]
    return {name: [turn[name] for turn in turns[1:]] for name in commands}


def seconds(command):
    """How long a command takes."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command[1]} ended: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
    return time.perf_counter() - start


def table(measured):
    """Lines of Markdown. What a command takes more than the imports is a difference within the same round."""
    lines = [f"| process | seconds (least to most) | more than `{FLOOR}` (least to most) |", "|---|---|---|"]
    for name, taken in measured.items():
        more = [one - floor for one, floor in zip(taken, measured[FLOOR], strict=True)]
        difference = "" if name == FLOOR else "{:+.2f} ({:+.2f} to {:+.2f})".format(*spread(more))
        lines.append("| {} | {:.2f} ({:.2f} to {:.2f}) | {} |".format(name, *spread(taken), difference))
    return lines
