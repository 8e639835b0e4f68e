"""Sides of a comparison, each in a process of its own, run in turn, so that what disturbs one disturbs all."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from ..errors import UserError

HERE = Path(__file__).parent


class Side:
    """A process that does a piece of work whenever it is asked to: on the spec's `device`, or the processor alone.

    Args:
        file: of the folder `sides`; spec: what its `build` gets, `threads` among it.
        python: the interpreter that has what it imports; None: this one.

    Raises:
        UserError: it does not begin, or ends too early; says its last words.
    """

    def __init__(self, file, spec, python=None):
        threads = str(spec["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if spec.get("device", "cpu") == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if python is None:
            environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        self.name, self.words = file, tempfile.TemporaryFile("w+")
        try:
            self.process = subprocess.Popen(
                [python or sys.executable, HERE / "worker.py", HERE / "sides" / file, json.dumps(spec)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"{python}: {error.strerror}: name the Python of the peer's environment") from None
        self.parameters = self.answer()["parameters"]

    def __call__(self):
        """Do it once: {"seconds", "parts": {part: seconds}, "peak_bytes"}."""
        self.ask()
        return self.answer()

    def ask(self):
        """Let it begin; `answer` waits for it."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `answer` will say
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def answer(self):
        """What it says next."""
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.words.seek(0)
            words = self.words.read().strip().splitlines()
            raise UserError(f"{self.name} ended: {words[-1] if words else f'code {self.process.returncode}, without a word'}")
        return json.loads(line)

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def in_turn(sides, rounds, say):
    """Run every side `rounds` times, in turn, after one run each that does not count:
    {name: {"parameters": number, "runs": [what each run said]}}.

    sides: {name: a function that gives its Side}; they begin before the first run, and rest while another one runs.
    """
    with contextlib.ExitStack() as stack:
        begun = {}
        for name, make in sides.items():
            begun[name] = make()
            stack.callback(begun[name].close)
        measured = {name: {"parameters": side.parameters, "runs": []} for name, side in begun.items()}
        for k in tqdm(range(rounds + 1), desc=say, unit="round"):
            for name, side in begun.items():
                answer = side()
                if k:
                    measured[name]["runs"].append(answer)
    return measured
