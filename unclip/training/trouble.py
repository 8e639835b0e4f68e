"""Losses that are no numbers, or far too large: the step is left out, what it was trained on is written down."""

import math
from pathlib import Path

from ..errors import UserError
from .log import write_line

KNOWN = 20  # steps after which it is known what loss is usual
SPIKE = 3.0  # times the usual loss: noted
EXPLODED = 30.0  # times the usual loss: the step is left out
FILE = "trouble.jsonl"
KEYS = 1000  # at most, of one step


class Trouble:
    """Watches the loss and the gradient of a run.

    run: its folder, in which `trouble.jsonl` gets a line for every such step; most: how many in a row may be left out.
    """

    def __init__(self, run, most):
        self.file, self.most, self.in_a_row = Path(run) / FILE, most, 0

    def what(self, loss, norm, usual):
        """What is wrong with a step: "not finite", "exploded", "spike", or None.

        loss, norm: numbers, the same in all processes; usual: the running mean of the loss, None until it is known.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "not finite"
        if usual is not None and loss > SPIKE * abs(usual):
            return "exploded" if loss > EXPLODED * abs(usual) else "spike"
        self.in_a_row = 0
        return None

    def note(self, line, say, write=True):
        """Write a step of trouble down: whether it is to be left out.

        line: {"step", "what", "loss", "usual_loss", "gradient_norm", "keys": of the samples of its batches}; say: told the
        same, but for the keys; write: whether this process does.

        Raises:
            UserError: too many in a row were left out.
        """
        what, step, loss = line["what"], line["step"], line["loss"]
        if write:
            write_line(self.file, {**line, "keys": line["keys"][:KEYS]})
        say(f"step {step}: the loss is {loss:.4g}, {what}; {self.file} names the samples")
        if what == "spike":
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        if self.in_a_row > self.most:
            raise UserError(
                f"the loss is {loss:.4g} at step {step}, {what} in {self.in_a_row} step(s) in a row: lower optimizer.lr, or look "
                f"at the samples that {self.file} names; the last checkpoint is kept"
            )
        return True
